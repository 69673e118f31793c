"""Recipes for networks that generate pictures of lesions."""
