"""The built-in corpus: prose out of Python sources, against ast and tokenize; and the real library as it lies here."""

import ast
import io
import itertools
import sysconfig
import tokenize
from pathlib import Path

import pytest

from embedtrain import stdlib_docs
from embedtrain.errors import EmbedtrainError

SOURCE = '''\
#!/usr/bin/env python
# Licensed to the reader.
# All rights are shared with
# everybody who asks!

"""Reads many files.  The file's name
is given by `os.path.join`; don't forget it.

>>> read_all("a # b")
this output is not prose

 * one item of a list
 * another item here
   that goes on

----------------
x = read_all() # a trailing comment is code
"""

quote = "# not a comment at all" '\\'' """not a docstring but data"""

def read_all(path):
    r"""Return the contents of *path* see https://example.org/a for more."""
    # Licensed to the reader.
    return path
'''


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put an empty folder in the place of the standard library, without a language reference."""
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(stdlib_docs, "_language_reference", lambda: iter(()))
    return tmp_path


def test_sentences_of_a_source(library: Path) -> None:
    (library / "a.py").write_text(SOURCE)
    assert [" ".join(words) for words in stdlib_docs.sentences()] == [
        "licensed to the reader",
        "all rights are shared with everybody who asks",
        "reads many files",
        "the file name is given by os path join",
        "don't forget it",
        "one item of a list",
        "another item here that goes on",
        "return the contents of path see for more",
    ]


def test_folders_order_and_repeats(library: Path) -> None:
    for name in ("b/one.py", "a.py", "site-packages/other.py", "b/two.py"):
        path = library / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'"""A text that repeats. Words of {name.replace("/", " ")}"""\n')
    assert [" ".join(words) for words in stdlib_docs.sentences()] == [
        "a text that repeats",
        "words of a py",
        "words of b one py",
        "words of b two py",
    ]


def test_a_file_that_does_not_parse_or_decode(library: Path) -> None:
    (library / "a.py").write_bytes(b'def (:\n# na\xefve latin words\n"""An open docstring never ends')
    (library / "b.py").write_bytes(b'"""The next file is read."""\n')
    assert list(stdlib_docs.sentences())[-1] == ["the", "next", "file", "is", "read"]


def test_no_sources(library: Path) -> None:
    with pytest.raises(EmbedtrainError, match="no Python sources in"):
        list(stdlib_docs.sentences())


@pytest.mark.parametrize("module", ["argparse.py", "json/decoder.py", "socket.py", "asyncio/base_events.py"])
def test_pieces_are_those_of_ast_and_tokenize(module: str) -> None:
    source = (Path(ast.__file__).parent / module).read_text(encoding="utf-8")
    pieces = " ".join(" ".join(stdlib_docs._pieces_of(source)).split())
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node, clean=False)
            if docstring and "\\" not in docstring and '"""' in ast.get_source_segment(source, node.body[0]):
                assert " ".join(docstring.split()) in pieces
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and token.line.lstrip().startswith("#"):
            assert " ".join(token.string.lstrip("#:! ").split()) in pieces


def test_this_library() -> None:
    first = list(itertools.islice(stdlib_docs.sentences(), 20_000))
    words = {word for sentence in first for word in sentence}
    assert {"file", "string", "thread", "socket", "list", "error", "the", "don't"} <= words
    assert all(word == word.lower() and " " not in word for word in words)
    assert min(map(len, first)) >= 3
    assert len({tuple(sentence) for sentence in first}) == len(first)
    assert first == list(itertools.islice(stdlib_docs.sentences(), 20_000))


def test_language_reference_comes_first() -> None:
    opening = [" ".join(words) for words in itertools.islice(stdlib_docs.sentences(), 2_000)]
    assert any("the with statement is used to wrap the execution of a block" in sentence for sentence in opening)
