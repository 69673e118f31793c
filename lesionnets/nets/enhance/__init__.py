"""Networks for super-resolution."""
