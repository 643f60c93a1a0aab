"""A study's document, tables and figures."""
