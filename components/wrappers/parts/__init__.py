"""What the members of `wrappers` share."""
