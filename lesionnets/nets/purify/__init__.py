"""Networks that find and paint over what lies on the skin."""
