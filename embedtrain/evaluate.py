"""``python -m embedtrain.evaluate MODEL… --pairs FILE… --analogies FILE…``: judge embeddings by test sets."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from embedtrain.checkpoint import add_evaluation, is_result, load
from embedtrain.cli import run_command
from embedtrain.errors import EmbedtrainError
from embedtrain.files import replace_file
from embedtrain.progress import Progress
from embedtrain.reading import ReadOptions, read_with
from embedtrain.testsets import TestSets

if TYPE_CHECKING:
    from embedtrain.embeddings import Embeddings
    from embedtrain.evaluation import Accuracy, Correlation, Evaluation, Similarity


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate(TestSets):
    """Compare word embeddings with human judgements of similarity, and let them solve analogies.

    Similarity is Spearman's and Pearson's correlation, with the 95 % confidence interval of Fisher's z; analogies are
    solved by 3CosAdd and by 3CosMul. The numbers are those of gensim.
    """

    models: tyro.conf.Positional[tuple[Path, ...]]
    """Files or folders of vectors, in any format that embedtrain.convert reads without further options."""
    json: Path | None = None
    """Write the results to this file; "-" is standard output, in the place of the table."""
    card: bool = False
    """Put the results into config.json and README.md (the model card) of the models, which must be embedtrain folders."""  # noqa: E501

    def __post_init__(self) -> None:
        """Refuse values that make no sense.

        :raises EmbedtrainError: naming the option and what is allowed.
        """
        super().__post_init__()
        if not self.models:
            raise EmbedtrainError("name a file or folder of vectors to evaluate")
        if not self.pairs and not self.analogies:
            raise EmbedtrainError("nothing to evaluate with; name test sets (--pairs FILE…, --analogies FILE…)")


def parse(arguments: Sequence[str] | None = None) -> Evaluate:
    """Read the command line.

    :raises EmbedtrainError: for a value that makes no sense.
    :raises SystemExit: with code 2, for an option that does not exist or cannot be read.
    """
    return tyro.cli(Evaluate, args=arguments, prog="python -m embedtrain.evaluate")


def run(options: Evaluate) -> dict[str, Evaluation]:
    """Evaluate each model; return the results by the name that tells it from the others.

    :raises EmbedtrainError: if a model or a test set cannot be read, or a result cannot be written.
    """
    pairs, analogies = options.read()
    if options.card and (others := [str(model) for model in options.models if not is_result(model)]):
        raise EmbedtrainError(f"{others[0]} has no model card: it is not an embedtrain folder; leave out --card")
    from embedtrain.evaluation import evaluate  # not at the top: torch takes a second to import

    results = {}
    for name, model in zip(names(options.models), options.models, strict=True):
        embeddings = read_model(model, options.restrict_vocab)
        results[name] = evaluate(embeddings, pairs, analogies, **options.lookup())
        if options.card:
            add_evaluation(model, results[name].to_dict())
    return results


def names(models: Sequence[Path]) -> list[str]:
    """Return short names for files or folders: their own, or the whole path where that is not enough."""
    short = [model.resolve().name for model in models]
    return [str(model) if short.count(name) > 1 else name for model, name in zip(models, short, strict=True)]


def read_model(source: Path, limit: int | None = None) -> Embeddings:
    """Read vectors of any format, of files at most ``limit`` rows.

    :raises EmbedtrainError: what is wrong with the source, and where.
    """
    if is_result(source):
        return load(source)
    return read_with(ReadOptions(special_rows=False, limit=limit), source, None, Progress(quiet=sys.stderr is None))


def table(results: dict[str, Evaluation]) -> str:
    """Return the results as text, with three columns for each model."""
    first = next(iter(results.values()))
    blocks = []
    if first.pairs:
        rows = [[name, *(cell for result in results.values() for cell in _similarity(result.pairs[name]))]
                for name in first.pairs]  # fmt: skip
        blocks.append(_block("similarity", ["Spearman (95 %)", "Pearson", "pairs known"], rows, list(results)))
    for name, solved in first.analogies.items():
        sections = [section for section in solved.sections if len(solved.sections) > 1]
        rows = [[section or "(no section)", *(cell for result in results.values()
                 for cell in _accuracy(result.analogies[name].sections[section]))] for section in sections]  # fmt: skip
        total = [cell for result in results.values() for cell in _accuracy(result.analogies[name].total)]
        rows.append([name, *total])
        blocks.append(_block("analogies", ["3CosAdd", "3CosMul", "questions known"], rows, list(results)))
    return "\n\n".join([*blocks, explain(first)])


def explain(result: Evaluation) -> str:
    """Say how words were looked up."""
    case = "letter case ignored" if result.case_insensitive else "letter case as it is"
    unknown = "counted as wrong" if result.dummy4unknown else "left out"
    return f"among the {result.restrict_vocab:,} most frequent words, {case}; what has unknown words is {unknown}"


def _similarity(result: Similarity) -> list[str]:
    known = f"{result.known:,} of {result.pairs:,}"
    return [_correlation(result.spearman), "–" if result.pearson is None else f"{result.pearson.value:.3f}", known]


def _correlation(value: Correlation | None) -> str:
    return "–" if value is None else f"{value.value:.3f} ({value.low:.2f} to {value.high:.2f})"


def _accuracy(result: Accuracy) -> list[str]:
    shares = ["–" if share is None else f"{share:.3f}" for share in (result.add, result.mul)]
    return [*shares, f"{result.known:,} of {result.questions:,}"]


def _block(title: str, columns: list[str], rows: list[list[str]], models: list[str]) -> str:
    """Lay out rows of a name and the same columns for each model, whose names stand above them."""
    lines = [[title, *columns * len(models)], *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    above = "".ljust(widths[0])
    for place, model in enumerate(models):
        own = widths[1 + place * len(columns) : 1 + (place + 1) * len(columns)]
        room = sum(own) + 2 * (len(own) - 1)
        if len(model) > room:  # widen the last column
            widths[(place + 1) * len(columns)] += len(model) - room
            room = len(model)
        above += "  " + model.ljust(room)
    text = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)
    return "\n".join([above.rstrip(), *text])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""

    def command() -> None:
        options = parse(arguments)
        results = run(options)
        text = json.dumps({name: result.to_dict() for name, result in results.items()}, indent=2, ensure_ascii=False)
        if options.json == Path("-"):
            print(text)
            return
        print(table(results))
        if options.json is not None:
            replace_file(options.json, text + "\n")

    return run_command(command, "look at fewer words (--restrict-vocab)")


if __name__ == "__main__":
    sys.exit(main())
