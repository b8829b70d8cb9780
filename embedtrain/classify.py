"""``python -m embedtrain.classify train.tsv --embeddings out/ --test test.tsv``: a text classifier on embeddings.

``python -m embedtrain.classify predict model/`` labels the lines of standard input with it.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from embedtrain.checkpoint import OutputFolder
from embedtrain.cli import run_command
from embedtrain.errors import EmbedtrainError
from embedtrain.labelled import Labelled, Split, choose_cut, cutter, read_labelled
from embedtrain.options import require_float, require_int
from embedtrain.progress import LINE_INTERVAL, Progress
from embedtrain.vocabulary import Vocab

if TYPE_CHECKING:
    import torch

    from embedtrain.classifier import Classifier, Texts
    from embedtrain.embeddings import Embeddings

_PREDICT_AT_ONCE = 1024
_FEWEST_EPOCHS, _FEWEST_STEPS = 3, 200


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classify:
    """Train a text classifier (embedding, bidirectional LSTM, linear layer) and write it to a folder.

    Texts are lines label<TAB>text, a CSV file with named columns, or a folder with a folder of .txt files per label.
    To use it: python -m embedtrain.classify predict FOLDER < texts
    """

    train: tyro.conf.Positional[Path]
    """Labelled texts to train on: a file, or a folder like IMDB's (train/pos/*.txt; its test/ is the test then)."""
    embeddings: Path | None = None
    """Folder or file of embeddings, in any format that embedtrain.convert reads. Not needed for --tune scratch."""
    test: Path | None = None
    """Labelled texts to test on, after training."""
    out: Path = Path("model")
    """Folder for the classifier. It must not exist, or be empty."""
    overwrite: bool = False
    """Replace an earlier result in the folder."""
    tune: Literal["frozen", "full", "rows", "scratch"] = "full"
    """What of the embeddings to train: nothing; all; only the rows of rare words and of words that the source of the embeddings lacked; or all, from random numbers."""  # noqa: E501
    rare_below: int = 100
    """With --tune rows: words seen less often than this, in the embeddings' corpus, are rare."""
    unfreeze_at: int | None = None
    """With --tune frozen or rows: train all embeddings from this epoch on, counted from 1."""
    split: Split = "auto"
    """How to cut texts: at white space; into words, without punctuation; or whichever gives more known tokens."""
    lowercase: bool | None = None
    """Lower-case the texts; None: if more tokens have an embedding then."""
    label_column: str = "label"
    """Name of the column of labels, in CSV."""
    text_column: str = "text"
    """Name of the column of texts, in CSV."""
    train_size: int | None = None
    """Use only so many of the labelled texts, drawn at random; None uses all."""
    held_out: float = 0.1
    """Share of the texts (above 0, below 1) that is not trained on, but tells when to stop."""
    hidden: int = 32
    """Numbers per direction of the LSTM."""
    dropout: float = 0.2
    """Share of numbers dropped in training, 0 to 1."""
    max_length: int = 400
    """Longer texts are cut to so many tokens."""
    epochs: int | None = None
    """Passes over the texts, at most; None: 3, or more if they are few, as many as make 200 steps."""
    patience: int = 10
    """Stop after so many epochs in which the held-out texts got no better."""
    batch_size: int = 64
    """Texts per step."""
    learning_rate: float = 4e-3
    """Step size of Adam at the start; it falls linearly to 0."""
    dim: int = 100
    """With --tune scratch and no embeddings: numbers per embedding."""
    min_count: int = 2
    """With --tune scratch and no embeddings: rarer words have no embedding."""
    seed: int = 1
    """Key of every random draw."""
    device: str = "auto"
    """Where to train: auto, cpu, cuda or cuda:N."""
    workers: int = 1
    """Threads of PyTorch on the CPU. The steps are small: more threads wait for each other, and long if others use the cores."""  # noqa: E501

    def __post_init__(self) -> None:
        """Refuse values that make no sense.

        :raises EmbedtrainError: naming the option and what is allowed.
        """
        for name in (
            "hidden",
            "max_length",
            "patience",
            "batch_size",
            "dim",
            "min_count",
            "rare_below",
            "workers",
        ):
            require_int(name, getattr(self, name), 1)
        for name in ("epochs", "train_size", "unfreeze_at"):
            if (value := getattr(self, name)) is not None:
                require_int(name, value, 1)
        require_int("seed", self.seed, 0, 2**63 - 1)
        require_float("held_out", self.held_out, 0.001, 0.9)
        require_float("dropout", self.dropout, 0.0, 0.99)
        require_float("learning_rate", self.learning_rate, 1e-8, 10.0)
        if self.embeddings is None and self.tune != "scratch":
            raise EmbedtrainError(f"--tune {self.tune} needs embeddings; pass --embeddings FOLDER, or --tune scratch")
        if self.unfreeze_at is not None and self.tune not in ("frozen", "rows"):
            raise EmbedtrainError(f"--tune {self.tune} trains all embeddings; leave out unfreeze-at")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predict:
    """Label the lines of standard input: prints label<TAB>probability for each."""

    model: tyro.conf.Positional[Path]
    """Folder that embedtrain.classify wrote."""
    batch_size: int = 64
    """Texts per step."""


def parse(arguments: Sequence[str] | None = None) -> Classify | Predict:
    """Read the command line.

    :raises EmbedtrainError: for a value that makes no sense.
    :raises SystemExit: with code 2, for an option that does not exist or cannot be read.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["predict"]:
        return tyro.cli(Predict, args=given[1:], prog="python -m embedtrain.classify predict")
    return tyro.cli(Classify, args=given, prog="python -m embedtrain.classify")


def run(options: Classify) -> dict[str, Any]:
    """Train, test and write the classifier.

    :return: the results: ``accuracy`` and ``macro_f1`` of the test, ``confusion``, ``labels`` and the best epoch.
    :raises EmbedtrainError: if the input is bad or the output cannot be written. Nothing is left half written.
    """
    progress = Progress(quiet=sys.stderr is None)
    with OutputFolder(options.out, overwrite=options.overwrite) as output:
        data, test = _read(options)
        labels = sorted(set(data.labels))
        if len(labels) < 2:
            raise EmbedtrainError(f"{options.train}: all texts have the label {labels[0]!r}; at least two are needed")
        if test is not None and (unknown := set(test.labels) - set(labels)):
            raise EmbedtrainError(f"the test has the label {min(unknown)!r}, which no text to train on has")

        import torch

        from embedtrain import classifier

        torch.manual_seed(options.seed)
        torch.set_num_threads(options.workers)
        device = _device(options.device)
        embeddings, coding = _embeddings(options, data, progress)
        coding["max_length"] = options.max_length
        encode = _encoder(embeddings, coding)
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(options.seed)).tolist()
        order = order[: options.train_size]
        held_out = max(1, round(len(order) * options.held_out))
        if len(order) - held_out < 1:
            raise EmbedtrainError(f"{options.train}: {len(order)} texts are too few to train on and to hold some out")
        held, training = (_encode(data.take(part), labels, encode) for part in (order[:held_out], order[held_out:]))
        progress.note(
            f"{len(training):,} texts to train on, {len(held):,} held out, "
            f"{len(test) if test else 0:,} to test; labels {', '.join(labels)}"
        )
        model = classifier.Classifier(
            _layer(embeddings, options, training), options.hidden, len(labels), options.dropout
        )
        model.to(device)
        pad_index = embeddings.pad_index or 0  # without a pad row any will do: packing keeps it out
        metrics: list[dict[str, Any]] = []

        def on_epoch(report: dict[str, Any]) -> None:
            metrics.append(report)
            output.log(report)
            progress.note(
                "epoch {epoch}: loss {loss:.3f}, held out {held_out_loss:.3f} (accuracy {held_out_accuracy:.3f}), "
                "{seconds:.0f} s".format(**report)
            )

        steps_per_epoch = -(-len(training) // options.batch_size)
        best = classifier.train(
            model,
            training,
            held,
            epochs=options.epochs or max(_FEWEST_EPOCHS, -(-_FEWEST_STEPS // steps_per_epoch)),
            patience=options.patience,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            pad_index=pad_index,
            unfreeze_at=options.unfreeze_at,
            seed=options.seed,
            device=device,
            on_step=_ticker(progress),
            on_epoch=on_epoch,
        )
        results: dict[str, Any] = {"labels": labels, **{f"best_{key}": value for key, value in best.items()}}
        if test is not None:
            encoded = _encode(test, labels, encode)
            probabilities = classifier.predict(model, encoded, options.batch_size, pad_index, device)
            scores = classifier.score(probabilities, encoded.labels)
            results |= {
                "test_accuracy": scores.accuracy,
                "test_macro_f1": scores.macro_f1,
                "confusion": scores.confusion.tolist(),
            }
        _save(output, options, model, embeddings, coding, results, metrics)
    return results


def _read(options: Classify) -> tuple[Labelled, Labelled | None]:
    train, test = options.train, options.test
    if (train / "train").is_dir():  # the folder of IMDB itself
        test = train / "test" if test is None and (train / "test").is_dir() else test
        train = train / "train"
    columns = (options.label_column, options.text_column)
    return read_labelled(train, *columns), None if test is None else read_labelled(test, *columns)


def _device(name: str) -> torch.device:
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise EmbedtrainError(f"device {name!r} cannot be used ({reason}); pass --device cpu") from None
    return device


def _embeddings(options: Classify, data: Labelled, progress: Progress) -> tuple[Embeddings, dict[str, Any]]:
    """Return the embeddings to start from, and how texts are cut into their words."""
    from embedtrain.embeddings import Embeddings

    if options.embeddings is None:
        split: Literal["spaces", "words"] = "words" if options.split == "auto" else options.split
        coding: dict[str, Any] = {"split": split, "lowercase": options.lowercase is not False}
        cut = cutter(split, coding["lowercase"])
        vocab = Vocab.from_iterator(map(cut, data.texts), min_freq=options.min_count)
        return Embeddings(_random(len(vocab), options.dim, 0), vocab.words, pad_index=0, unk_index=1), coding
    from embedtrain.reading import ReadOptions, read_with

    embeddings = read_with(ReadOptions(), options.embeddings, None, progress)
    embeddings.weight = embeddings.weight.float()
    if options.tune == "scratch":  # their words, but not their numbers
        embeddings.weight = _random(len(embeddings), embeddings.dim, embeddings.pad_index)
    if embeddings.tokenizer_json is not None:
        return embeddings, {"split": "tokenizer", "lowercase": False}
    split, lowercase, share = choose_cut(data.texts, embeddings, options.split, options.lowercase)
    progress.note(
        f"texts are cut {'at white space' if split == 'spaces' else 'into words'}{', lower-cased' * lowercase}: "
        f"{share:.1%} of the tokens have an embedding"
    )
    if share <= 0:
        raise EmbedtrainError(f"{options.embeddings}: not one token of {options.train} has an embedding in it")
    return embeddings, {"split": split, "lowercase": lowercase}


def _random(rows: int, dim: int, pad_index: int | None) -> torch.Tensor:
    """Return a table to train from nothing, N(0, 0.1²): that of nn.Embedding, N(0, 1), learns slowly."""
    import torch

    weight = torch.randn(rows, dim) * 0.1
    if pad_index is not None:
        weight[pad_index] = 0
    return weight


def _encoder(embeddings: Embeddings, coding: dict[str, Any]) -> Callable[[Sequence[str]], list[torch.Tensor]]:
    """Return the function that turns texts into rows of ids, int32 (L,), L from 1 to max_length."""
    import torch

    unknown = embeddings.unk_index
    nothing = [unknown if unknown is not None else embeddings.pad_index or 0]
    limit = coding.get("max_length")
    if coding["split"] == "tokenizer":
        from tokenizers import Tokenizer

        assert embeddings.tokenizer_json is not None
        tokenizer = Tokenizer.from_str(embeddings.tokenizer_json)
        tokenizer.no_padding()
        tokenizer.no_truncation()

        def ids(texts: Sequence[str]) -> Iterator[list[int]]:
            return (encoding.ids for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False))
    else:
        vocab = embeddings.vocab
        cut = cutter(coding["split"], coding["lowercase"])

        def ids(texts: Sequence[str]) -> Iterator[list[int]]:
            if vocab.default_index is None:
                return (vocab([token for token in cut(text) if token in vocab]) for text in texts)
            return (vocab(cut(text)) for text in texts)

    return lambda texts: [torch.tensor(row[:limit] or nothing, dtype=torch.int32) for row in ids(texts)]


def _encode(data: Labelled, labels: list[str], encode: Callable[[Sequence[str]], list[torch.Tensor]]) -> Texts:
    import torch

    from embedtrain.classifier import Texts

    number = {label: row for row, label in enumerate(labels)}
    return Texts(encode(data.texts), torch.tensor([number[label] for label in data.labels]))


def _layer(embeddings: Embeddings, options: Classify, training: Texts) -> torch.nn.Module:
    import numpy as np
    import torch

    if options.tune == "frozen":
        return embeddings.to_torch(freeze=True)
    if options.tune == "rows":
        rows = np.zeros(len(embeddings), np.bool_) if embeddings.missing is None else embeddings.missing.copy()
        if embeddings.counts is not None:
            rows |= embeddings.rare(options.rare_below)
        if not rows.any():
            raise EmbedtrainError(
                f"{options.embeddings}: no rows for --tune rows: it knows neither the counts of its words nor which "
                "its source lacked; choose frozen or full"
            )
        return embeddings.to_torch(freeze=True, trainable=rows)
    # Adam would not move the rows of words that the texts do not have, but spend its time on them.
    seen = torch.zeros(len(embeddings), dtype=torch.bool)
    seen[torch.cat(training.rows).long()] = True
    return embeddings.to_torch(freeze=True, trainable=seen)


def _ticker(progress: Progress) -> Callable[[int, float, float], None]:
    last = time.monotonic()

    def on_step(epoch: int, share: float, loss: float) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_INTERVAL:
            last = time.monotonic()
            progress.note(f"epoch {epoch} {share:4.0%}: loss {loss:.3f}")

    return on_step


def _save(
    output: OutputFolder,
    options: Classify,
    model: Classifier,
    embeddings: Embeddings,
    coding: dict[str, Any],
    results: dict[str, Any],
    metrics: list[dict[str, Any]],
) -> None:
    """Write the folder: the embeddings as they are now, an embedtrain checkpoint, and the other layers beside it."""
    import torch

    from embedtrain.embeddings import Embeddings

    state = {name: value.cpu() for name, value in model.state_dict().items()}
    weight = state.pop("embedding.weight")
    with output.path("classifier.pt").open("wb") as file:
        torch.save(state, file)
    config = {
        **embeddings.config,
        "classifier": {
            **coding,
            "labels": results["labels"],
            "hidden": options.hidden,
            "tune": options.tune,
        },
        "results": {**embeddings.config.get("results", {}), **results},
    }
    tuned = Embeddings(
        weight,
        embeddings.words,
        counts=embeddings.counts,
        pad_index=embeddings.pad_index,
        unk_index=embeddings.unk_index,
        config=config,
        metrics=metrics,
        tokenizer_json=embeddings.tokenizer_json,
        missing=embeddings.missing,
    )
    output.commit(tuned)


class TextClassifier:
    """A classifier that ``embedtrain.classify`` wrote.

    >>> TextClassifier("model").predict(["what a film"])
    [('pos', 0.93)]

    :raises EmbedtrainError: if the folder does not hold one.
    """

    def __init__(self, folder: str | Path) -> None:
        import torch

        from embedtrain.checkpoint import load
        from embedtrain.classifier import Classifier

        folder = Path(folder)
        embeddings = load(folder)
        made = embeddings.config.get("classifier")
        if not isinstance(made, dict) or not (folder / "classifier.pt").exists():
            raise EmbedtrainError(f"{folder} has embeddings, but no classifier; train one with embedtrain.classify")
        self.labels: list[str] = made["labels"]
        self.model = Classifier(embeddings.to_torch(freeze=True), made["hidden"], len(self.labels), 0.0)
        try:
            state = torch.load(folder / "classifier.pt", map_location="cpu", weights_only=True)
            self.model.load_state_dict({**state, "embedding.weight": embeddings.weight})
        except Exception as error:  # torch has many: zip, pickle, end of file, sizes
            raise EmbedtrainError(f"{folder / 'classifier.pt'} is broken: {str(error).splitlines()[0]}") from error
        self._encode = _encoder(embeddings, made)
        self._pad_index = embeddings.pad_index or 0

    def predict(self, texts: Sequence[str], batch_size: int = 64) -> list[tuple[str, float]]:
        """Return the label of each text, and its probability (0 to 1)."""
        import torch

        from embedtrain import classifier

        if not texts:
            return []
        rows = self._encode(texts)
        encoded = classifier.Texts(rows, torch.zeros(len(rows), dtype=torch.int64))
        probabilities = classifier.predict(self.model, encoded, batch_size, self._pad_index, torch.device("cpu"))
        best = probabilities.max(dim=1)
        return [
            (self.labels[label], share)
            for label, share in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]


def predict_lines(options: Predict) -> None:
    """Label the lines of standard input as they come."""
    model = TextClassifier(options.model)
    lines = (line.removesuffix("\n") for line in sys.stdin)
    while texts := list(islice(lines, _PREDICT_AT_ONCE if not sys.stdin.isatty() else 1)):
        for label, share in model.predict(texts, options.batch_size):
            print(f"{label}\t{share:.4f}")
        sys.stdout.flush()


def show(results: dict[str, Any]) -> None:
    """Print accuracy, macro-F1 and the confusion matrix."""
    if "confusion" not in results:
        print(f"held-out accuracy {results['best_held_out_accuracy']:.4f} (epoch {results['best_epoch']})")
        return
    print(f"test accuracy {results['test_accuracy']:.4f}, macro-F1 {results['test_macro_f1']:.4f}\n")
    labels = [label[:20] for label in results["labels"]]
    width = max(6, *(len(label) for label in labels))
    print(f"{'label':>{width}} | predicted " + " ".join(f"{label:>{width}}" for label in labels))
    for label, row in zip(labels, results["confusion"], strict=True):
        print(f"{label:>{width}} | {'':9} " + " ".join(f"{count:>{width}}" for count in row))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""

    def command() -> None:
        options = parse(arguments)
        if isinstance(options, Predict):
            predict_lines(options)
        else:
            show(run(options))
            print(f"\n{options.out}: python -m embedtrain.classify predict {options.out} < texts")

    return run_command(command, "lower --batch-size or --max-length")


if __name__ == "__main__":
    sys.exit(main())
