"""What one can type besides the stages."""
