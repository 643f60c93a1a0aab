"""Models as files for those who run them: written, checked against the original, timed."""
