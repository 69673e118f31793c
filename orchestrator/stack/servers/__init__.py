"""The servers of the local stack, each as a part."""
