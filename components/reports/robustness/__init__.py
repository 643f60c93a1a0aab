"""The report of one evaluation: document, figures, page."""
