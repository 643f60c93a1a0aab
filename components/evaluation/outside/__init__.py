"""Models and images that others made."""
