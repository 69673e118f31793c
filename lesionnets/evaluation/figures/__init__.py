"""Figures of merit of plain arrays, with bootstrap intervals."""
