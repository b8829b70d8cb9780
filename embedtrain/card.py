"""The model card: the README.md of a result, with the front matter of Hugging Face."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from embedtrain.embeddings import Embeddings

PICTURES = {"curve.svg": "Loss during training", "frequencies.svg": "How often words occur"}
"""Pictures that the card shows, and what to call them."""

_TAGS = ("word2vec", "static-embeddings", "embeddings", "pytorch")
_NEIGHBOURS = 5
# Words whose neighbours are shown, of each of frequent, middling and rare ones.
_EXAMPLES = 3
# They are chosen out of so many words of a part, evenly taken.
_LOOKED_AT = 10_000
_EVALUATION = "## Evaluation"


def model_card(embeddings: Embeddings, export: Sequence[str] = (), pictures: Sequence[str] = ()) -> str:
    """Return the model card of a result as Markdown.

    What is not known is left out. Read from ``embeddings.config``, each a mapping: ``source`` (what
    :func:`embedtrain.read` reported), ``options`` (every option of the run), ``corpus`` (``sources``, a list of
    ``{"name", "size"}``, and any other facts), ``results`` (what was measured of the run), ``evaluation``
    (:meth:`embedtrain.evaluation.Evaluation.to_dict`) and ``versions``.

    :param export: the exports written beside ``embedding.pt``, names out of :data:`embedtrain.formats.EXPORTS`.
    :param pictures: files of :data:`PICTURES` beside the card.
    """
    config = embeddings.config
    sections = [_front_matter(export), _summary(embeddings)]
    if neighbours := _neighbours(embeddings):
        sections.append("## Nearest neighbours\n\n" + neighbours)
    sections.append(_loading(embeddings, export))
    if source := config.get("source"):
        from embedtrain.reading import describe

        sections.append("## Source\n\n" + "\n".join(f"- {' '.join(line.split())}" for line in describe(source)))
    parts = [_results(embeddings), *(f"![{PICTURES[name]}]({name})" for name in pictures), _corpus(config)]
    if options := config.get("options"):
        parts.append(_details("Every option", _table("Option", options)))
    if versions := config.get("versions"):
        parts.append(_table("Software", versions))
    if any(parts):
        sections.append("\n\n".join(["## Training", *filter(None, parts)]))
    card = "\n\n".join(sections) + "\n"
    evaluation = config.get("evaluation")
    return card if evaluation is None else with_evaluation(card, evaluation)


def with_evaluation(card: str, evaluation: Mapping[str, Any]) -> str:
    """Return a model card with an evaluation, in the place of the one it had; the rest of it as it was.

    It is there twice: as a section for people, and as the ``model-index`` of Hugging Face's front matter for the hub.

    :param evaluation: :meth:`embedtrain.evaluation.Evaluation.to_dict`.
    :raises ValueError: if the front matter of the card is none.
    """
    from huggingface_hub import ModelCard, ModelCardData  # not at the top: it takes some tenths of a second to import

    try:
        parsed = ModelCard(card, ignore_metadata_errors=False)
    except Exception as error:  # its own, and those of its YAML library
        raise ValueError(f"the front matter cannot be read: {' '.join(str(error).split())}") from error
    data = parsed.data
    assert isinstance(data, ModelCardData)
    heading = re.search(r"^# (.*)$", parsed.text, re.MULTILINE)
    data.model_name = data.model_name or (heading[1].strip() if heading else "Word embeddings")
    data.eval_results = list(_eval_results(evaluation))
    section = f"{_EVALUATION}\n\n{_evaluation(evaluation)}\n\n"
    before, found, after = parsed.text.partition(f"\n{_EVALUATION}\n")
    if found:
        rest = re.search(r"^## ", after, re.MULTILINE)
        parsed.text = f"{before}\n{section}{after[rest.start() :] if rest else ''}".rstrip("\n")
    else:
        place = re.search(r"^## ", parsed.text, re.MULTILINE)
        at = place.start() if place else len(parsed.text)
        parsed.text = f"{parsed.text[:at].rstrip()}\n\n{section}{parsed.text[at:]}"
    return f"---\n{data.to_yaml()}\n---\n\n{parsed.text.strip()}\n"


def example_words(embeddings: Embeddings, count: int = 5) -> list[str]:
    """Return a few words whose neighbours tell something: frequent, spread, and rather long than short."""
    return _telling(_ranked(embeddings)[:1000], count)


def _ranked(embeddings: Embeddings) -> list[str]:
    """Return the words, most frequent first as far as that is known, without special rows."""
    special = {embeddings.pad_index, embeddings.unk_index}
    rows: Iterable[int] = range(len(embeddings))
    if embeddings.counts is not None:
        rows = (-embeddings.counts).argsort(kind="stable").tolist()
    return [embeddings.words[row] for row in rows if row not in special]


def _telling(words: list[str], count: int) -> list[str]:
    """Choose some of the words, evenly."""
    words = words[:: max(1, len(words) // _LOOKED_AT)]
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
    title = f"# Word embeddings, {len(embeddings):,} × {embeddings.dim}\n\n"
    made = _made(embeddings.config)
    return f"{title}{made}A float32 table with a row per word.{special}"


def _made(config: Mapping[str, Any]) -> str:
    """Say in a sentence what was trained on what."""
    if not config.get("options"):
        return ""
    text = "word2vec (skip-gram with negative sampling), trained by embedtrain"
    corpus = config.get("corpus") or {}
    names = [source["name"] for source in corpus.get("sources", ())]
    if names:
        text += f" on {', '.join(map(_code, names[:3]))}{f' and {len(names) - 3:,} more' if len(names) > 3 else ''}"
    if (tokens := corpus.get("tokens")) is not None:
        text += f", {tokens:,} words of running text"
    return f"{text}.\n\n"


def _corpus(config: Mapping[str, Any]) -> str:
    corpus = config.get("corpus") or {}
    facts = _grouped({name: value for name, value in corpus.items() if name != "sources"})
    sources = {}
    for source in corpus.get("sources", ()):
        size = "unknown size" if source.get("size") is None else f"{source['size']:,} bytes"
        sources[source["name"]] = size if source.get("files", 1) == 1 else f"{size} in {source['files']:,} files"
    tables = [_table(heading, rows) for heading, rows in (("Source", sources), ("Corpus", facts)) if rows]
    return "\n\n".join(tables)


def _results(embeddings: Embeddings) -> str:
    results = dict(embeddings.config.get("results", {}))
    losses = [report["loss"] for report in embeddings.metrics if report.get("loss") is not None]
    if losses and not any("loss" in name for name in results):
        results["loss"] = losses[-1]
    return _table("Measured", _grouped(results)) if results else ""


def _neighbours(embeddings: Embeddings) -> str:
    words = _ranked(embeddings)
    # By rank, because that is what Zipf's law makes of frequency: with 50,000 words the 1,000 most frequent ones, the
    # 9,000 after them, and all others.
    frequent, middling = len(words) // 50, len(words) // 5
    parts = [words] if frequent < _EXAMPLES else [words[:frequent], words[frequent:middling], words[middling:]]
    rows = []
    for word in (word for part in parts for word in _telling(part, _EXAMPLES)):
        near = embeddings.most_similar(word, topn=_NEIGHBOURS)
        nearest = ", ".join(f"{_code(other)} {similarity:.2f}" for other, similarity in near)
        seen = "" if embeddings.counts is None else f" {embeddings.counts[embeddings.index(word)]:,} |"
        rows.append(f"| {_code(word)} |{seen} {nearest} |")
    if not rows:
        return ""
    known = embeddings.counts is not None
    head = ["| Word | Seen | Nearest, with cosine similarity |", "|---|--:|---|"] if known else []
    return "\n".join([*(head or ["| Word | Nearest, with cosine similarity |", "|---|---|"]), *rows])


def _evaluation(evaluation: Mapping[str, Any]) -> str:
    """Return the section of an evaluation without its heading."""
    rows = []
    for name, found in evaluation["pairs"].items():
        known = f"{found['known']:,} of {found['pairs']:,} pairs"
        for measure in ("spearman", "pearson"):
            if (value := found[measure]) is not None:
                interval = f"{value['value']:.3f} ({value['low']:.2f} to {value['high']:.2f})"
                rows.append(f"| {_code(name)} | {measure.capitalize()} | {interval} | {known} |")
    sections = []
    for name, found in evaluation["analogies"].items():
        for method, share, known in _shares(found["total"]):
            rows.append(f"| {_code(name)} | {method} | {share} | {known} |")
        for section, of_section in found["sections"].items():
            shares = [share for _, share, _ in _shares(of_section)]
            if shares and section:
                sections.append(f"| {_code(section)} | {shares[0]} | {shares[1]} | {of_section['known']:,} |")
    case = "letter case is ignored" if evaluation["case_insensitive"] else "letter case counts"
    unknown = "counts as wrong" if evaluation["dummy4unknown"] else "is left out"
    text = (
        "Similarity to human judgement as a correlation, with the 95 % interval of Fisher's z; analogies as the share "
        f"solved. Among the {evaluation['restrict_vocab']:,} most frequent words; {case}; what has unknown words "
        f"{unknown}.\n\n" + "\n".join(["| Test | Measure | | Known |", "|---|---|--:|--:|", *rows])
    )
    if len(sections) > 1:
        head = ["| Section | 3CosAdd | 3CosMul | Known questions |", "|---|--:|--:|--:|"]
        text += "\n\n" + _details("Analogies by section", "\n".join([*head, *sections]))
    return text


def _shares(accuracy: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    known = f"{accuracy['known']:,} of {accuracy['questions']:,} questions"
    methods = (("3CosAdd", accuracy["add"]), ("3CosMul", accuracy["mul"]))
    return [(method, f"{share:.3f}", known) for method, share in methods if share is not None]


def _eval_results(evaluation: Mapping[str, Any]) -> Iterator[EvalResult]:
    """Return what was measured in the form of Hugging Face's ``model-index``."""
    from huggingface_hub import EvalResult

    def result(task: str, test: str, metric: str, name: str, value: float) -> EvalResult:
        return EvalResult(
            task_type=task.lower().replace(" ", "-"), task_name=task, dataset_type=re.sub(r"\W+", "-", test.lower()),
            dataset_name=test, metric_type=metric, metric_name=name, metric_value=round(value, 4),
        )  # fmt: skip

    for test, found in evaluation["pairs"].items():
        for metric, name in (("spearmanr", "Spearman"), ("pearsonr", "Pearson")):
            if (value := found[name.lower()]) is not None:
                yield result("Word similarity", test, metric, f"{name}'s correlation", value["value"])
    for test, found in evaluation["analogies"].items():
        for key, name in (("add", "3CosAdd"), ("mul", "3CosMul")):
            if (value := found["total"][key]) is not None:
                yield result("Word analogies", test, "accuracy", f"Accuracy ({name})", value)


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

In gensim:

```python
from gensim.models import KeyedVectors

{_in_gensim(embeddings, export)}
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

As a static embedding, which averages the words of a text, in sentence-transformers:

```python
from sentence_transformers import SentenceTransformer

vectors = SentenceTransformer(".").encode(["some text"])
```

or in model2vec:

```python
from model2vec import StaticModel

vectors = StaticModel.from_pretrained(".").encode(["some text"])
```"""
    return text


def _in_gensim(embeddings: Embeddings, export: Sequence[str]) -> str:
    if "word2vec-binary" in export:
        return 'vectors = KeyedVectors.load_word2vec_format("vectors.bin", binary=True)'
    if "word2vec" in export:
        return 'vectors = KeyedVectors.load_word2vec_format("vectors.txt")'
    words = "[2:]" if {embeddings.pad_index, embeddings.unk_index} == {0, 1} else ""
    return f"vectors = KeyedVectors({embeddings.dim})\nvectors.add_vectors(words{words}, weight{words}.float().numpy())"


def _details(summary: str, text: str) -> str:
    return f"<details>\n<summary>{summary}</summary>\n\n{text}\n\n</details>"


def _table(heading: str, rows: Mapping[str, Any]) -> str:
    lines = [f"| {_code(name)} | {_cell(value)} |" for name, value in rows.items()]
    return "\n".join([f"| {heading} | |", "|---|---|", *lines])


def _grouped(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Spell the whole numbers among some facts with commas."""
    return {
        name: _grouped(value) if isinstance(value, Mapping)
        else f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
        for name, value in facts.items()
    }  # fmt: skip


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
