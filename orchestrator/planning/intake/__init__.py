"""Intake: what the user named as input, image by image."""
