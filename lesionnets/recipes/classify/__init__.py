"""Recipes of the classify stage."""
