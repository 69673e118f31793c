"""Batches for training: images with masks, labels or what covers them, augmented."""
