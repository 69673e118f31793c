"""Recipes for the purify stage."""
