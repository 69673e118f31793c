"""Networks for mutual bootstrapping: segmentation and classification that help each other."""
