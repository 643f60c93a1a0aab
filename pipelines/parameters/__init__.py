"""Recipes: presets and changes to them."""
