"""The built-in corpus: what the documentation of the running Python's standard library says, word by word.

Docstrings and comments are read from the installed sources where they lie, and the language reference from
``pydoc_data.topics``, the text behind ``help("with")``. Nothing is copied or downloaded. It is a small corpus, but
every Python has it, and it is all about one thing.
"""

from __future__ import annotations

import importlib
import itertools
import os
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from embedtrain.errors import EmbedtrainError

# Installed packages are not the standard library; character tables and topics.py are data, not prose.
_SKIPPED_FOLDERS = frozenset({"site-packages", "dist-packages", "__pycache__", "encodings", "pydoc_data"})
_SHORTEST_SENTENCE = 3

# A block of comment lines, or a string. One in three quotes at the start of its line is a docstring, or as good as one;
# other strings and comments are matched so that the quotes and # signs in them are passed over. This finds what ast and
# tokenize find in a thirtieth of the time, in files that do not parse too. Each match starts at one of four characters,
# which re looks for quickly; what they mean is settled by looking back at them.
_PIECES = re.compile(
    r"""(?x)
    [\n"'\#]
    (?: (?<=\n) (?P<comment> [ \t]*\#.* (?: \n [ \t]*\#.* )* )
      | (?: (?<=\n) (?P<line_start> [ \t]* [rRuU]? ["'] ) | (?<=["']) )
        (?: (?<=") (?: "" (?P<double> [^"\\]* (?: (?: \\(?s:.) | "(?!"") ) [^"\\]* )* ) \"{3}
                     | [^"\\\n]* (?: \\(?s:.) [^"\\\n]* )* " )
          | (?<=') (?: '' (?P<single> [^'\\]* (?: (?: \\(?s:.) | '(?!'') ) [^'\\]* )* ) '{3}
                     | [^'\\\n]* (?: \\(?s:.) [^'\\\n]* )* ' ) )
      | (?<=\#) .* )
    """
)
_COMMENT_SIGN = re.compile(r"(?m)^[ \t]*#+:?")
# Lines of code, grammars, tables and rulers; an example (>>>) and its output go as far as the next blank line.
_CODE = re.compile(
    r"""(?x)
    ^(?: [@$%<!] | (?: def | class | import | from | if | elif | else | for | while | try | except | finally | with
        | return | print | raise | assert | del )\b .* [:()=\]]$ )
    | ::= | -> | \s[-+*/|&]?=\s | [=!]= | [({\[,=|+\\]$ | ^\W*$ | ^\S+\(.*\)$
    """
)
_BULLET = re.compile(r"(?:[-*+•o]|\(?(?:[0-9]{1,2}|[a-z])[.)])\s")
_NOISE = re.compile(r"['’]s\b|\w+://\S+|\S+@\S+|\\.|%[(\w)]*[a-z]\b")
_SENTENCE_END = re.compile(r"""[.!?:;]['"”)\]]*\s+""")
_WORD = re.compile(r"[^\W\d]\w*(?:['’](?:t|re|ve|ll|d|m)\b)?")


def sentences() -> Iterator[list[str]]:
    """Read the documentation, a sentence at a time, always in the same order.

    :return: lists of lower-case words. Identifiers are words (``read_text``), dotted ones are several
    :raises EmbedtrainError: if this Python came without the sources of its library
    """
    seen: set[str] = set()  # licences, and whatever else was pasted from file to file, count once
    for text in itertools.chain(_language_reference(), _docstrings_and_comments()):
        for sentence in _sentences_of(text):
            words = _WORD.findall(_NOISE.sub(" ", sentence).lower().replace("’", "'"))
            joined = " ".join(words)
            if len(words) >= _SHORTEST_SENTENCE and joined not in seen:
                seen.add(joined)
                yield words


def _language_reference() -> Iterator[str]:
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except ModuleNotFoundError:  # some distributions ship Python without it
        return
    for name in sorted(topics):
        yield topics[name]


def _docstrings_and_comments() -> Iterator[str]:
    library = sysconfig.get_path("stdlib")
    found_any = False
    for folder, subfolders, files in os.walk(library):
        subfolders[:] = sorted(set(subfolders) - _SKIPPED_FOLDERS)
        for name in sorted(files):
            if name.endswith(".py"):
                found_any = True
                yield from _pieces_of(Path(folder, name).read_text(encoding="utf-8", errors="replace"))
    if not found_any:
        raise EmbedtrainError(f"no Python sources in {library}, the standard library; name a corpus to train on")


def _pieces_of(source: str) -> Iterator[str]:
    for piece in _PIECES.finditer("\n" + source):
        if piece["comment"]:
            yield _COMMENT_SIGN.sub("", piece["comment"])
        elif piece["line_start"]:
            yield piece["double"] or piece["single"] or ""


def _sentences_of(text: str) -> Iterator[str]:
    """Cut a text into sentences: paragraphs and list items first, which end without a full stop as often as not."""
    paragraph: list[str] = []
    in_example = False
    for line in [*map(str.strip, text.splitlines()), ""]:
        in_example = line.startswith(">>>") or (in_example and line != "")
        is_prose = line != "" and not in_example and not _CODE.search(line)
        if paragraph and (not is_prose or _BULLET.match(line)):
            yield from _SENTENCE_END.split(" ".join(paragraph))
            paragraph.clear()
        if is_prose:
            paragraph.append(line)
