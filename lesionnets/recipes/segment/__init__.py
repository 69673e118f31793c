"""Recipes for the segment stage."""
