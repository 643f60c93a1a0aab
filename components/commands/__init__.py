"""What commands and flows start besides the stages: checking parameters, evaluating any model, a study's table."""
