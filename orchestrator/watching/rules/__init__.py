"""Rules that say what becomes of new objects."""
