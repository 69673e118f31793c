"""Recipes of the purify stage."""
