"""Figures of merit for plain arrays, with bootstrap intervals."""
