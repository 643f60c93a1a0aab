"""What the members of `schedules` share."""
