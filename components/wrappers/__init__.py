"""What may go around any training method."""
