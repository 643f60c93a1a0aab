"""What the members of `attacks` share."""
