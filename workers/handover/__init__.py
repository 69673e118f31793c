"""What leaves the system with an image's result."""
