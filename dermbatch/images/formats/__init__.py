"""Image files that Pillow and OpenCV either cannot read or misread."""
