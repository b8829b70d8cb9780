"""The one exception that means "the user can fix this"."""

from __future__ import annotations


class EmbedtrainError(Exception):
    """Bad input or a bad environment. The message says what is wrong, where, and what to do.

    The command line prints it as one line and exits with ``code``; it never shows a traceback.
    """

    code = 2
    told = False
    """Whether the user has been told already, by another process."""
