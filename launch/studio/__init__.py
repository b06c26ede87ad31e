"""`equipoise studio`: one local page that starts the commands and reads run folders (docs/studio.md)."""
