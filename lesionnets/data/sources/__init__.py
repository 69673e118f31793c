"""Data as their publishers lay them out."""
