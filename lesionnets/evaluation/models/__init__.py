"""Models as plain functions of images, wherever they run."""
