"""The one training loop with its checkpoints and its validation."""
