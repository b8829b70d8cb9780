"""The model card: the README.md of a result, with the front matter of Hugging Face."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedtrain.embeddings import Embeddings

_TAGS = ("word2vec", "static-embeddings", "embeddings", "pytorch")
_NEIGHBOURS = 5


def model_card(embeddings: Embeddings, export: Sequence[str] = ()) -> str:
    """Return the model card of a result as Markdown.

    What is not known is left out. Read from ``embeddings.config``, each a mapping: ``source`` (what
    :func:`embedtrain.read` reported), ``options`` (every option of the run), ``corpus`` (``sources``, a list of
    ``{"name", "size"}``, and any other facts), ``results`` (what was measured) and ``versions``.

    :param export: the exports written beside ``embedding.pt``, names out of :data:`embedtrain.formats.EXPORTS`.
    """
    config = embeddings.config
    sections = [_front_matter(export), _summary(embeddings)]
    if source := config.get("source"):
        from embedtrain.reading import describe

        sections.append("## Source\n\n" + "\n".join(f"- {' '.join(line.split())}" for line in describe(source)))
    if options := config.get("options"):
        sections.append("## Training\n\nword2vec, skip-gram with negative sampling.\n\n" + _table("Option", options))
    if corpus := config.get("corpus"):
        sections.append("## Corpus\n\n" + _corpus(corpus))
    if results := _results(embeddings):
        sections.append("## Results\n\n" + _table("Measured", results))
    if neighbours := _neighbours(embeddings):
        sections.append("## Nearest neighbours\n\n" + neighbours)
    sections.append(_loading(embeddings, export))
    if versions := config.get("versions"):
        sections.append("## Versions\n\n" + _table("Software", versions))
    return "\n\n".join(sections) + "\n"


def example_words(embeddings: Embeddings, count: int = 5) -> list[str]:
    """Return a few words whose neighbours tell something: frequent, spread, and rather long than short."""
    special = {embeddings.pad_index, embeddings.unk_index}
    rows: Iterable[int] = range(len(embeddings))
    if embeddings.counts is not None:
        rows = (-embeddings.counts).argsort(kind="stable").tolist()
    words = list(islice((embeddings.words[row] for row in rows if row not in special), 1000))
    # Short words are mostly function words. Item ids and Chinese have no long words of letters: then any will do.
    long = [word for word in words if len(word) > 4 and word.isalpha()]
    if len(long) >= count:
        words = long
    return words[:: max(1, len(words) // count)][:count]


def _front_matter(export: Sequence[str]) -> str:
    tags = _TAGS + (("sentence-transformers", "model2vec") if "safetensors" in export else ())
    return "---\nlibrary_name: embedtrain\ntags:\n" + "".join(f"- {tag}\n" for tag in tags) + "---"


def _summary(embeddings: Embeddings) -> str:
    rows = []
    if embeddings.pad_index is not None:
        zeros = "" if embeddings.weight[embeddings.pad_index].any() else " (zeros)"
        rows.append(f"row {embeddings.pad_index} is the padding token{zeros}")
    if embeddings.unk_index is not None:
        rows.append(f"row {embeddings.unk_index} stands for unknown words")
    special = f" {' and '.join(rows).capitalize()}." if rows else ""
    return f"# Word embeddings, {len(embeddings):,} × {embeddings.dim}\n\nA float32 table with a row per word.{special}"


def _corpus(corpus: Mapping[str, Any]) -> str:
    facts = {name: value for name, value in corpus.items() if name != "sources"}
    sources = {
        source["name"]: "unknown size" if source.get("size") is None else f"{source['size']:,} bytes"
        for source in corpus.get("sources", ())
    }
    tables = [_table(heading, rows) for heading, rows in (("Source", sources), ("Corpus", facts)) if rows]
    return "\n\n".join(tables)


def _results(embeddings: Embeddings) -> dict[str, Any]:
    results = dict(embeddings.config.get("results", {}))
    losses = [report["loss"] for report in embeddings.metrics if report.get("loss") is not None]
    if losses and not any("loss" in name for name in results):
        results["loss"] = losses[-1]
    return results


def _neighbours(embeddings: Embeddings) -> str:
    rows = {}
    for word in example_words(embeddings):
        near = embeddings.most_similar(word, topn=_NEIGHBOURS)
        rows[word] = ", ".join(f"{_code(other)} {similarity:.2f}" for other, similarity in near)
    if not rows:
        return ""
    lines = [f"| {_code(word)} | {near} |" for word, near in rows.items()]
    return "\n".join(["| Word | Nearest, with cosine similarity |", "|---|---|", *lines])


def _loading(embeddings: Embeddings, export: Sequence[str]) -> str:
    padding = "" if embeddings.pad_index is None else f", padding_idx={embeddings.pad_index}"
    text = f"""## Use

In PyTorch, without embedtrain (`freeze=False` fine-tunes the embeddings, `freeze=True` keeps them):

```python
import torch

weight = torch.load("embedding.pt")["weight"]
embedding = torch.nn.Embedding.from_pretrained(weight, freeze=False{padding})
```

The token of row n is line n of `vocab.txt`, counted from 0:

```python
from pathlib import Path

words = Path("vocab.txt").read_text(encoding="utf-8").split("\\n")[:-1]
row_of = {{word: row for row, word in enumerate(words)}}
```

With embedtrain:

```python
import embedtrain

embeddings = embedtrain.load(".")
embeddings.most_similar({example_words(embeddings, 1)[0]!r})
embedding = embeddings.to_torch(freeze=False)
```"""
    if embeddings.tokenizer_json is not None:
        text += """

The rows are the token ids of `tokenizer.json`:

```python
from tokenizers import Tokenizer

rows = Tokenizer.from_file("tokenizer.json").encode("some text").ids
```"""
    if "safetensors" in export:
        text += """

As a static embedding, which averages the words of a text:

```python
from model2vec import StaticModel

vectors = StaticModel.from_pretrained(".").encode(["some text"])
```"""
    return text


def _table(heading: str, rows: Mapping[str, Any]) -> str:
    lines = [f"| {_code(name)} | {_cell(value)} |" for name, value in rows.items()]
    return "\n".join([f"| {heading} | |", "|---|---|", *lines])


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_cell(item)}" for name, item in value.items()) or "–"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_cell, value)) or "–"
    return str(value) if isinstance(value, int) else _code(str(value))


def _code(text: str) -> str:
    """Return text as inline code for a table cell, whatever characters it holds."""
    text = " ".join(text.splitlines()).replace("|", "\\|")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{text}{space}{fence}"
