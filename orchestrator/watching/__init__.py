"""Watching: rules that say what becomes of new objects, and how stores announce them."""
