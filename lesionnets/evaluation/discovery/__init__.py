"""The patterns that a classifier discovered: clusters of its local descriptors, and what they are good for."""
