"""Recipes of the segment stage."""
