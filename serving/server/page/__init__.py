"""The page to try an export: one file without anything from elsewhere."""
