"""Watching: rules that say what becomes of new objects, and the stores' news of them."""
