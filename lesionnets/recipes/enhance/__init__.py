"""Recipes for the enhance stage."""
