"""The report of one evaluation: a JSON document, a table for the terminal and one self-contained page.

`document` derives every number from the per-image outcomes; `tables`, `figures`, `gallery` and `html` only show it;
`svg` draws.
"""
