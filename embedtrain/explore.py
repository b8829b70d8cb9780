"""``python -m embedtrain.explore out/``: a map of the words, in one HTML file that needs no network.

The page holds everything: the style and the code from ``embedtrain/page/``, and the words, their vectors and their
places on the map, so that it computes neighbours and sums of words itself. The vectors are rows of length 1 in 24-bit
fixed point, so that cosines are right to about 10⁻⁷ and the numbers shown are those of
:meth:`embedtrain.Embeddings.most_similar`. Each block of data is gzip in base64; 20,000 words of 100 numbers make
7.5 MB. Nothing that comes from the vectors is ever part of the markup.
"""

from __future__ import annotations

import base64
import dataclasses
import gzip
import html
import json
import re
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import tyro

from embedtrain import __version__
from embedtrain.cli import run_command
from embedtrain.errors import EmbedtrainError
from embedtrain.files import replace_file
from embedtrain.options import require_int
from embedtrain.progress import Progress

if TYPE_CHECKING:
    import torch

    from embedtrain.embeddings import Embeddings
    from embedtrain.wordmap import Float32

FIXED_POINT = 2**23
"""A number x of a vector is stored as round(x · 2²³), three bytes."""

_EXAMPLES = ("king - man + woman", "paris - france + italy", "better - good + bad", "walking - walk + swim")
_ONLY_LISTED = 200  # words that only one of two models has


@dataclasses.dataclass(frozen=True, kw_only=True)
class Explore:
    """Write a page that shows the words of a model as a map: one HTML file, to open in a browser and to share."""

    source: tyro.conf.Positional[Path]
    """Folder or file of vectors, in any format that embedtrain.convert reads without further options."""
    compare: Path | None = None
    """Another model: the page shows which words have other neighbours there."""
    out: Path = Path("explore.html")
    """The page to write."""
    overwrite: bool = False
    """Replace the file if it is there."""
    max_vocab: int = 20_000
    """At most this many words, the most frequent ones."""
    open: bool = False
    """Show the page in the browser."""
    seed: int = 1
    """Key of the random draws of the map and the groups."""

    def __post_init__(self) -> None:
        """Refuse values that make no sense.

        :raises EmbedtrainError: naming the option and what is allowed.
        """
        require_int("max_vocab", self.max_vocab, 2, 1_000_000)
        require_int("seed", self.seed, 0, 2**31 - 1)


@dataclasses.dataclass(frozen=True, eq=False)
class Words:
    """The words of a model that can be shown, most frequent first.

    :param name: what to call the model.
    :param words: V words, without special rows, rows without a direction and words that were never seen.
    :param counts: int64 (V,), or None if not known: then the words are in the order of the file.
    :param weight: (V, D).
    """

    name: str
    words: list[str]
    counts: npt.NDArray[np.int64] | None
    weight: torch.Tensor

    def take(self, rows: Sequence[int]) -> Words:
        """Return some of the words."""
        counts = None if self.counts is None else self.counts[list(rows)]
        return Words(self.name, [self.words[row] for row in rows], counts, self.weight[list(rows)])


def page(first: Words, second: Words | None = None, *, max_vocab: int, seed: int, progress: Progress) -> str:
    """Return the page, as HTML.

    :param second: the model to compare with: the page then shows the words that both have.
    :raises EmbedtrainError: if there are not enough words to show.
    """
    from embedtrain import wordmap

    wordmap.require_libraries()
    models = [first] if second is None else _in_common(first, second)
    shown = [model.take(range(min(len(model.words), max_vocab))) for model in models]
    words = shown[0].words
    units = [wordmap.unit_rows(model.weight) for model in shown]
    neighbours = [wordmap.nearest(unit, 3 * wordmap.PERPLEXITY) for unit in units]
    places: list[Float32] = []
    for model, unit, near in zip(shown, units, neighbours, strict=True):
        doing = f"map of {model.name}" if second else "map"
        with progress.steps(doing, f"{doing}: laid out {len(words):,} words", wordmap.ITERATIONS) as update:
            places.append(wordmap.lay_out(unit, near, places[0] if places else None, seed, update))
    places = [wordmap.to_circle(place) for place in places]
    groups, names = wordmap.group(units[0], places[0], seed)
    facts: dict[str, Any] = {
        "words": words,
        "counts": None if shown[0].counts is None else shown[0].counts.tolist(),
        "cluster": groups.tolist(),
        "clusters": names,
        "spaces": [
            {"name": model.name, "dim": model.weight.shape[1], "total": len(own.words)}
            for model, own in zip(shown, [first, second or first], strict=False)
        ],
        "shared": None,
        "examples": _examples(words),
    }
    if second is not None:
        # Neighbours that two unrelated models share by chance must stay few.
        compared = max(1, min(wordmap.COMPARED, len(words) // 20))
        facts["nearest_compared"] = compared
        facts["shared"] = wordmap.shared_neighbours(units[0], units[1], compared).tolist()
        facts["only"] = [_only(first, second), _only(second, first)]
    data = {"words": json.dumps(facts, ensure_ascii=False).encode()}
    for number, (unit, place) in enumerate(zip(units, places, strict=True)):
        data[f"vectors-{number}"] = _to_planes(unit)
        data[f"places-{number}"] = place.T.astype("<f4").tobytes()
    title = " and ".join(model.name for model in shown)
    return _assemble(f"{title} · embedtrain", data)


def usable(embeddings: Embeddings, name: str, progress: Progress) -> Words:
    """Return the words of a model that can be shown, most frequent first; note what is left out."""
    from embedtrain.vocabulary import PAD, UNK

    counts = embeddings.counts
    special = [index for index in (embeddings.pad_index, embeddings.unk_index) if index is not None]
    special += [row for row, word in enumerate(embeddings.words) if word in (PAD, UNK) and row not in special]
    ordinary = np.ones(len(embeddings), np.bool_)
    ordinary[special] = False
    length = embeddings.weight.double().norm(dim=1).numpy()
    directed = np.isfinite(length) & (length > 0)
    seen = ordinary & (True if counts is None else counts > 0)
    for missing, why in ((ordinary & ~seen, "never seen"), (seen & ~directed, "without a vector")):
        if missing.any():
            progress.note(f"{name}: left out {int(missing.sum()):,} words {why}")
    kept = np.flatnonzero(seen & directed)
    if counts is not None:
        kept = kept[np.argsort(-counts[kept], kind="stable")]
    words = [embeddings.words[row] for row in kept]
    return Words(name, words, None if counts is None else counts[kept], embeddings.weight[kept])


def _in_common(first: Words, second: Words) -> list[Words]:
    """Return both models, with the words that both have in the order of the first."""
    row_of = {word: row for row, word in enumerate(second.words)}
    rows = [(row, row_of[word]) for row, word in enumerate(first.words) if word in row_of]
    if len(rows) < 2:
        raise EmbedtrainError(f"{first.name} and {second.name} have {len(rows)} words in common; nothing to compare")
    return [first.take([row for row, _ in rows]), second.take([row for _, row in rows])]


def _only(own: Words, other: Words) -> dict[str, Any]:
    known = set(other.words)
    words = [word for word in own.words if word not in known]
    return {"total": len(words), "words": words[:_ONLY_LISTED]}


def _examples(words: Sequence[str]) -> list[str]:
    """Return what to offer to try: sums of words if these words are there, and a few words."""
    known = set(words)
    sums = [text for text in _EXAMPLES if known.issuperset(re.split(" [-+] ", text))]
    long = [word for word in words[:2000] if len(word) > 4 and word.isalpha()]
    some = long if len(long) >= 3 else list(words[:2000])
    return [*sums, *some[len(some) // 10 :: max(1, len(some) // 3)][:3]]


def _to_planes(unit: torch.Tensor) -> bytes:
    """Return numbers from -1 to 1 as 24-bit fixed point: all low bytes, then the middle ones, then the high ones."""
    whole = np.rint(unit.numpy() * FIXED_POINT).clip(1 - FIXED_POINT, FIXED_POINT - 1).astype("<i4")
    planes: npt.NDArray[np.uint8] = whole.reshape(-1).view(np.uint8).reshape(-1, 4)[:, :3].T
    return planes.tobytes()


def _assemble(title: str, data: dict[str, bytes]) -> str:
    """Put style, code and data into the markup of the page."""
    # No time in the gzip header: the same words make the same file.
    blocks = {name: base64.b64encode(gzip.compress(block, mtime=0)).decode() for name, block in data.items()}
    parts = {
        "title": html.escape(title),
        "version": html.escape(__version__),
        "size": f"{sum(map(len, blocks.values())) / 1e6:.1f} MB",
        "data": "\n".join(f'<script type="text/plain" id="{name}">{block}</script>' for name, block in blocks.items()),
    }
    files = resources.files("embedtrain.page")

    def part(match: re.Match[str]) -> str:
        name = match[1]
        return parts[name] if name in parts else (files / name).read_text(encoding="utf-8").rstrip()

    return re.sub(r"<!--([\w.]+)-->", part, (files / "page.html").read_text(encoding="utf-8"))


def parse(arguments: Sequence[str] | None = None) -> Explore:
    """Read the command line.

    :raises EmbedtrainError: for a value that makes no sense.
    :raises SystemExit: with code 2, for an option that does not exist or cannot be read.
    """
    return tyro.cli(Explore, args=arguments, prog="python -m embedtrain.explore")


def run(options: Explore) -> int:
    """Write the page; return how many words it shows.

    :raises EmbedtrainError: if the input is bad or the page cannot be written. Nothing is left half written.
    """
    _check_target(options.out, options.overwrite)
    from embedtrain import wordmap
    from embedtrain.evaluate import names, read_model

    wordmap.require_libraries()
    progress = Progress(quiet=sys.stderr is None)
    paths = [path for path in (options.source, options.compare) if path is not None]
    models = []
    for path, name in zip(paths, names(paths), strict=True):
        models.append(usable(read_model(path), name, progress))
        if len(models[-1].words) < 2:
            raise EmbedtrainError(f"{path}: a map needs at least 2 words with a vector, and there are not so many")
    text = page(*models, max_vocab=options.max_vocab, seed=options.seed, progress=progress)
    _check_target(options.out, options.overwrite)  # again: it took a while
    replace_file(options.out, text)
    return min(options.max_vocab, len(models[0].words))


def _check_target(target: Path, overwrite: bool) -> None:
    if target.is_dir():
        raise EmbedtrainError(f"{target} is a folder; name the file to write, as {target / 'explore.html'}")
    if target.exists() and not overwrite:
        raise EmbedtrainError(f"{target} is there already; choose another name (--out), or replace it (--overwrite)")
    if not target.parent.is_dir():
        raise EmbedtrainError(f"{target.parent} is not a folder, so {target.name} cannot be written there")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""

    def command() -> None:
        options = parse(arguments)
        run(options)
        print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB; open it in a browser")
        if options.open:
            import webbrowser

            webbrowser.open(options.out.resolve().as_uri())

    return run_command(command, "show fewer words (--max-vocab)")


if __name__ == "__main__":
    sys.exit(main())
