"""The advice on teachers: its document, its text and its page."""
