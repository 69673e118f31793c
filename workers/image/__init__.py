"""One image's way through the stages, and what is kept of it."""
