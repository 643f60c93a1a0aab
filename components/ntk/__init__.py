"""The neural tangent kernel of a model on a fixed set of images: the kernel, its numbers, and a probe for training."""
