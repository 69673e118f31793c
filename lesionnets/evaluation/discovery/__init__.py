"""What patterns a classifier has discovered: clusters of its local descriptors, and what they are good for."""
