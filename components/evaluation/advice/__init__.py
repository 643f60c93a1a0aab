"""What makes a network worth being learned from, measured on images that it was not trained on."""
