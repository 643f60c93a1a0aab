"""The one exception for a user's mistake on this side; components are not imported here."""


class InputError(ValueError):
    """A user's mistake in one line: what was given, what is allowed, where."""
