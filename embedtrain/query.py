"""``python -m embedtrain.query MODEL``: look at embeddings, word by word."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import sys
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tyro

from embedtrain.checkpoint import is_result, load_arrays
from embedtrain.cli import run_command
from embedtrain.errors import EmbedtrainError
from embedtrain.evaluate import read_model
from embedtrain.spelling import near_spellings
from embedtrain.vocabulary import PAD, UNK

_HISTORY = "embedtrain/query_history"
_COMPLETIONS = 100

Floats = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Query:
    """Look at word embeddings: nearest words, sums of words, similarities, the odd one out.

    A query is one of

      king                           the words nearest to it
      king - man + woman             the words nearest to the sum: man is to king as woman is to …
      king ~ queen                   the cosine of two words, from -1 to 1
      breakfast, cereal, dinner      which of the words does not belong

    With white space around +, - and ~, and after commas; so words may hold these characters, or spaces. Without a
    query, queries are read line by line, from a prompt with history and completion (Tab) if this is a terminal.
    """

    model: tyro.conf.Positional[Path]
    """File or folder of vectors, in any format that embedtrain.convert reads without further options."""
    query: tyro.conf.Positional[tuple[str, ...]] = ()
    """What to look at; after -- if a word starts with a dash."""
    topn: int = 10
    """How many of the nearest words."""
    json: bool = False
    """Print a line of JSON per query."""

    def __post_init__(self) -> None:
        """Refuse values that make no sense.

        :raises EmbedtrainError: naming the option and what is allowed.
        """
        if self.topn < 1:
            raise EmbedtrainError(f"topn must be at least 1, not {self.topn}")


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a query gave: words with cosines (and how often each was seen, if known), or one number."""

    query: str
    kind: str
    """nearest, similarity or odd-one-out."""
    words: list[tuple[str, float]]
    counts: list[int] | None = None

    def text(self) -> str:
        """Lay it out for people."""
        if self.kind == "similarity":
            return f"  {self.words[0][1]:.3f}"
        width = max(len(word) for word, _ in self.words)
        counts = ["" if self.counts is None else f"  {count:>11,}" for count in self.counts or [0] * len(self.words)]
        lines = [
            f"  {word:{width}}  {cosine:6.3f}{count}" for (word, cosine), count in zip(self.words, counts, strict=True)
        ]
        if self.kind == "odd-one-out":
            lines[0] += "   does not belong"
        return "\n".join(lines)

    def line(self) -> str:
        """Return it as JSON, in a line."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False)


class Words:
    """Words with their vectors, in numpy: torch takes longer to import than a query to answer.

    :param words: the word of each row.
    :param vectors: (V, D), of any length.
    :param counts: (V,) how often each was seen, None if not known.
    :param special: rows that are no words.
    """

    def __init__(
        self,
        words: Sequence[str],
        vectors: Floats,
        counts: npt.NDArray[np.int64] | None = None,
        special: Collection[int | None] = (),
    ) -> None:
        self.words, self.vectors, self.counts = words, vectors, counts
        self._special = [row for row in special if row is not None]
        self._rows = {word: row for row, word in enumerate(words) if row not in special}
        self._norms = np.maximum(np.linalg.norm(vectors, axis=1), np.finfo(np.float32).tiny)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __contains__(self, word: object) -> bool:
        return word in self._rows

    def unit(self, word: str) -> Floats:
        """Return the vector of a word (D,), scaled to length 1.

        :raises EmbedtrainError: if it is unknown; the message offers words spelled like it.
        """
        row = self._rows.get(word)
        if row is None:
            near = near_spellings(word, self)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise EmbedtrainError(f"{word!r} is not in the vocabulary{hint}")
        vector: Floats = self.vectors[row] / self._norms[row]
        return vector

    def nearest(self, plus: Sequence[str], minus: Sequence[str], topn: int) -> list[tuple[str, float]]:
        """Return the words nearest to a sum of unit vectors, without those of the query; as gensim's most_similar."""
        query = sum((self.unit(word) for word in plus), -sum(map(self.unit, minus), np.zeros(1, np.float32)))
        cosines = self.vectors @ query / self._norms / max(float(np.linalg.norm(query)), 1e-30)
        cosines[[*self._special, *(self._rows[word] for word in (*plus, *minus))]] = -np.inf
        topn = min(topn, len(self) - len({*plus, *minus}))
        best = np.argpartition(-cosines, topn - 1)[:topn] if topn else np.zeros(0, np.int64)
        best = best[np.argsort(-cosines[best], kind="stable")]
        return [(self.words[row], float(cosines[row])) for row in best]

    def odd_one_out(self, words: Sequence[str]) -> list[tuple[str, float]]:
        """Return words with their cosine to the mean of their unit vectors, the most distant first."""
        units = np.stack([self.unit(word) for word in words])
        mean = units.mean(axis=0)
        cosines = units @ mean / max(float(np.linalg.norm(mean)), 1e-30)
        return sorted(zip(words, cosines.tolist(), strict=True), key=lambda found: found[1])

    def ask(self, query: str, topn: int) -> Answer:
        """Answer a query; its grammar is that of the command line.

        :raises EmbedtrainError: if it makes no sense or names an unknown word.
        """
        query = query.strip()
        if query not in self:
            if len(words := query.split(" ~ ")) > 1:
                if len(words) > 2:
                    raise EmbedtrainError(f"{query!r}: ~ stands between two words")
                first, second = (word.strip() for word in words)
                return Answer(query, "similarity", [(second, float(self.unit(first) @ self.unit(second)))])
            if len(words := query.split(", ")) > 1:
                words = [word.strip() for word in words]
                if len(words) < 3:
                    raise EmbedtrainError(
                        f"{query!r}: the odd one out needs three words at least; or write {words[0]} ~ …"
                    )
                return Answer(query, "odd-one-out", self.odd_one_out(words))
        plus, minus = ([query], []) if query in self else _terms(query)
        found = self.nearest(plus, minus, topn)
        counts = None if self.counts is None else [int(self.counts[self._rows[word]]) for word, _ in found]
        return Answer(query, "nearest", found, counts)


def _terms(query: str) -> tuple[list[str], list[str]]:
    """Cut a sum into the words with plus and those with minus before them."""
    terms: dict[str, list[str]] = {"+": [], "-": []}
    parts = query.split()
    if parts and parts[0] not in terms:
        parts.insert(0, "+")
    signs = [place for place, part in enumerate(parts) if part in terms]
    for begin, end in zip(signs, [*signs[1:], len(parts)], strict=True):
        if end == begin + 1:
            raise EmbedtrainError(f"{query!r}: no word after {parts[begin]}")
        terms[parts[begin]].append(" ".join(parts[begin + 1 : end]))
    if not signs:
        raise EmbedtrainError("an empty query; write a word, or a sum like king - man + woman")
    return terms["+"], terms["-"]


def read(source: Path) -> Words:
    """Read words and vectors, of an embedtrain folder as a rule without importing torch.

    :raises EmbedtrainError: what is wrong with the source, and where.
    """
    if is_result(source):
        return Words(*load_arrays(source))
    embeddings = read_model(source)
    special = {row for row, word in enumerate(embeddings.words) if word in (PAD, UNK)}
    return Words(embeddings.words, embeddings.weight.float().numpy(), embeddings.counts, special)


def prompt(words: Words) -> Iterator[str]:
    """Yield lines that are typed, with history and completion where Python has readline."""
    try:
        import readline
    except ImportError:
        readline = None  # type: ignore[assignment]
    state = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / _HISTORY
    if readline is not None:
        with contextlib.suppress(OSError):
            readline.read_history_file(state)
        readline.set_completer_delims(" \t,")
        readline.set_completer(_completer(sorted(words)))
        readline.parse_and_bind("bind ^I rl_complete" if "libedit" in (readline.__doc__ or "") else "tab: complete")
    try:
        while True:
            yield input("> ")
    except EOFError:
        print()
    finally:
        if readline is not None:
            with contextlib.suppress(OSError):  # history is no reason to complain
                state.parent.mkdir(parents=True, exist_ok=True)
                readline.set_history_length(1000)
                readline.write_history_file(state)


def _completer(words: list[str]) -> Callable[[str, int], str | None]:
    """Return readline's completer for words in alphabetical order."""

    def complete(begin: str, number: int) -> str | None:
        place = bisect_left(words, begin) + number
        return words[place] if number < _COMPLETIONS and place < len(words) and words[place].startswith(begin) else None

    return complete


def run(options: Query) -> None:
    """Answer the query, or those that are typed or piped in.

    :raises EmbedtrainError: for a query that cannot be answered. One that was typed is only complained about; of
        those that were piped in, the others are answered first.
    """
    words = read(options.model)
    if options.query:
        print(_spell(words.ask(" ".join(options.query), options.topn), options))
        return
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if terminal:
        dim = words.vectors.shape[1]
        print(f"{len(words):,} words, {dim} numbers each. Try a word, a - b + c, a ~ b, or a, b, c. Ctrl-D ends.")
    asked = unanswered = 0
    for query in prompt(words) if terminal else sys.stdin:
        if not query.strip():
            continue
        asked += 1
        try:
            print(_spell(words.ask(query, options.topn), options), flush=True)
        except EmbedtrainError as error:
            unanswered += 1
            print(f"  {error}" if terminal else f"embedtrain: {error}", file=sys.stdout if terminal else sys.stderr)
    if unanswered and not terminal:
        raise EmbedtrainError(f"{unanswered:,} of {asked:,} queries could not be answered")


def _spell(answer: Answer, options: Query) -> str:
    return answer.line() if options.json else answer.text()


def parse(arguments: Sequence[str] | None = None) -> Query:
    """Read the command line.

    :raises EmbedtrainError: for a value that makes no sense.
    :raises SystemExit: with code 2, for an option that does not exist or cannot be read.
    """
    return tyro.cli(Query, args=arguments, prog="python -m embedtrain.query")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for words that the terminal's encoding does not have
    return run_command(lambda: run(parse(arguments)), "convert the vectors to fewer words (embedtrain.convert --limit)")


if __name__ == "__main__":
    sys.exit(main())
