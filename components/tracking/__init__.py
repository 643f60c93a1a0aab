"""Records of stages, and their way to MLflow."""
