"""What the members of `methods` share."""
