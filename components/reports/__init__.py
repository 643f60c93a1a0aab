"""The report of one evaluation: a JSON document, a table for the terminal and one self-contained page.

`document` derives every number from the per-image outcomes, with `rates`, `kurakin` and `hardest`; `tables`, `figures`,
`training_figures`, `gallery` and `html` only show it; `svg` draws; `diff` compares two documents.
"""
