"""Losses, each with its paper."""
