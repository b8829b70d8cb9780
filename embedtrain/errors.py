"""The one exception that means "the user can fix this"."""

from __future__ import annotations


class EmbedtrainError(Exception):
    """Bad input or a bad environment. The message says what is wrong, where, and what to do.

    The command line prints it as one line and exits with code 2; it never shows a traceback.
    """
