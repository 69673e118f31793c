"""Recipes of the enhance stage."""
