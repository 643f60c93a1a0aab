"""What the members of `distillation` share."""
