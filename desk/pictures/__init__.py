"""Zoomable pictures: decoded once, by a process that may fail, and cut into tiles; outlines of masks."""
