"""Attacks on a model, image by image, and what may be believed of the result."""
