"""What the members of `optimizers` share."""
