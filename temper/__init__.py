"""Robustness of image classifiers: attacks, training, evaluation with a verdict. The command line is `temper`."""

__version__ = "0.1.0"
