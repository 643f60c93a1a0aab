"""What the members of `datasets` share."""
