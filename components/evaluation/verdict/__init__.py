"""Whether an evaluation can be trusted: rules and what they find."""
