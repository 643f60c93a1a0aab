"""What the members of `models` share."""
