"""Words of the vocabulary that are spelled like one that is not in it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# How far a suggestion may differ in length, and in the set of its letters.
_LENGTH, _LETTERS = 2, 3


def near_spellings(word: str, words: Iterable[str], count: int = 3) -> list[str]:
    """Return the words most like ``word`` by difflib's ratio, upper and lower case being the same; best first.

    Comparing takes difflib some µs a word, so that only words of about the same length and letters are compared:
    25 ms for 100,000 words.
    """
    target = word.lower()
    letters, shortest, longest = set(target), len(target) - _LENGTH, len(target) + _LENGTH
    like: dict[str, str] = {}
    for other in words:
        if shortest <= len(other) <= longest:
            lowered = other.lower()
            if len(letters.symmetric_difference(lowered)) <= _LETTERS:
                like.setdefault(lowered, other)  # of its variants the first, which is the most frequent
    return [like[near] for near in difflib.get_close_matches(target, like, count)]
