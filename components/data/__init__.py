"""The images: reading, dividing, augmenting, and bringing them to the device in batches."""
