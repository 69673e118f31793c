"""Recipes for mutual bootstrapping."""
