"""Recipes of mutual bootstrapping."""
