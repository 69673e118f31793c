"""Recipes for the classify stage."""
