"""Losses, each with the paper it is from."""
