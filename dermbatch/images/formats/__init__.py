"""Formats of image files that Pillow and OpenCV either cannot read or misread, and of arrays."""
