"""What is told of evaluations: the report of one, the comparison of two models, the results of a study.

Each has a folder with `contents`, the types of its document, and `document`, which derives every number from per-image
outcomes; the other files only show it. `wording`, `grids`, `charts` and `frames` serve all of them.
"""
