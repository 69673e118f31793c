"""Networks of mutual bootstrapping: segmentation and classification that help each other."""
