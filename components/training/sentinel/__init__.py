"""The sentinel: watches for overfitting while a model is trained."""
