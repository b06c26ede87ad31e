"""The model: backbone, adapters, boundary, towers, heads, and their export."""
