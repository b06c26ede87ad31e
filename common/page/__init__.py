"""What self-contained HTML pages share: their look, their drawing, and how they are put together."""
