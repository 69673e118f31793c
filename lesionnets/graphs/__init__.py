"""The graphs that are served: networks with the pre- and post-processing that the stage contracts need."""
