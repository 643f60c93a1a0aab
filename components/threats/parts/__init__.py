"""What the members of `threats` share."""
