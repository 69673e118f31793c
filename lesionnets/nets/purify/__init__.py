"""Networks that find what covers the skin and paint over it."""
