"""What is served: networks wrapped with pre- and post-processing to the stage contracts."""
