"""The page of the studio: one file without anything from elsewhere."""
