"""Temper's parts: a folder is a family with a table of members, a file is a part there is one of."""
