"""Recipes of networks that make up pictures of lesions."""
