"""Image files that Pillow and OpenCV do not read, or not as they are meant."""
