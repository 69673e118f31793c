"""Batches for training: augmented images with masks, labels or occlusions."""
