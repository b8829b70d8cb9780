"""``python -m embedtrain.fit corpus.txt``: train embeddings and write the result folder."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import math
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from embedtrain import distributed
from embedtrain.checkpoint import CHECKPOINTS, OutputFolder
from embedtrain.cli import drop_output, run_command
from embedtrain.device import resolve
from embedtrain.errors import EmbedtrainError
from embedtrain.examination import Examination
from embedtrain.formats import Export, check_export
from embedtrain.progress import Progress
from embedtrain.tensorboard import Board
from embedtrain.testsets import TestSets
from embedtrain.training_state import EVERY, Checkpoints, Diverged, Saved, newest
from embedtrain.vocabulary import PAD, UNK
from embedtrain.word2vec import Word2Vec

if TYPE_CHECKING:
    from embedtrain.corpus import Corpus
    from embedtrain.embeddings import Embeddings

# The built-in corpus is so small that it wants more, and bolder, passes.
_BUILT_IN: dict[str, Any] = {"epochs": 40, "alpha": 0.05}
_CORPUS = "the first argument"
# Options of gensim, word2vec.c and fastText, in lower case, that have another name here.
_ELSEWHERE = {
    "size": "--dim", "vector-size": "--dim", "ws": "--window", "neg": "--negative", "mincount": "--min-count",
    "max-final-vocab": "--max-vocab", "max-vocab-size": "--max-vocab", "t": "--sample", "iter": "--epochs",
    "epoch": "--epochs", "lr": "--alpha", "learning-rate": "--alpha", "thread": "--workers", "threads": "--workers",
    "output": "--out", "binary": "--export word2vec-binary",
    "train": _CORPUS, "input": _CORPUS, "sentences": _CORPUS, "corpus-file": _CORPUS,
}  # fmt: skip
_NEEDLESS = ("sg", "hs", "cbow", "loss")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fit(TestSets, Word2Vec):
    """Train word2vec embeddings on text and write them as a PyTorch checkpoint.

    In the corpus a sentence is a line, and words are what white space separates.
    """

    corpus: tyro.conf.Positional[tuple[str, ...]] = ()
    """Text files, plain or compressed (gz, bz2, xz, zst), Parquet or Arrow files, ids in npy or npz; folders, 'quoted/*.globs' and URLs of these; "-" is standard input. Without one: the documentation of the Python standard library, with epochs 40 and alpha 0.05."""  # noqa: E501
    out: Path = Path("out")
    """Folder for the result. It must not exist, or be empty."""
    overwrite: bool = False
    """Replace an earlier result in the folder, or checkpoints."""
    checkpoint_every: str = EVERY
    """How often to save the training, into checkpoints/ in the folder: a time (30s, 10m, 1h), a number of tokens (50Mtokens), or off."""  # noqa: E501
    resume: bool = False
    """Go on from the newest intact checkpoint in the folder, which may be named here (--resume FOLDER), with the options of then; epochs may be raised. Without a checkpoint, start."""  # noqa: E501
    export: Annotated[tuple[Export, ...], tyro.conf.UseAppendAction] = ()
    """Write this format as well: embedding.npy; safetensors with tokenizer.json (sentence-transformers, model2vec); word2vec text or binary; GloVe text. May be given several times."""  # noqa: E501
    save_vocab: Path | None = None
    """Write the words and their counts to this file ("word count" a line)."""
    evaluate_every: float | None = None
    """With pairs or analogies: evaluate every so many epochs (0.5 is twice in an epoch); without, at the end only."""
    tensorboard: Path | None = None
    """Write loss, rate, words/s and evaluations for TensorBoard into this folder."""

    def __post_init__(self) -> None:
        """Refuse values that make no sense.

        :raises EmbedtrainError: naming the option and what is allowed.
        """
        Word2Vec.__post_init__(self)
        TestSets.__post_init__(self)
        if self.evaluate_every is not None:
            if not (math.isfinite(self.evaluate_every) and self.evaluate_every > 0):
                raise EmbedtrainError(f"evaluate-every must be a number of epochs above 0, not {self.evaluate_every}")
            if not self.pairs and not self.analogies:
                raise EmbedtrainError("evaluate-every needs test sets; name them (--pairs FILE…, --analogies FILE…)")
        if self.tensorboard is not None and importlib.util.find_spec("tensorboard") is None:
            raise EmbedtrainError("tensorboard is not installed; install it (pip install tensorboard), or leave it out")


def parse(arguments: Sequence[str] | None = None, saved: Saved | None = None) -> Fit:
    """Read the command line.

    :param saved: a checkpoint to go on from; what it was trained with is the default of each option.
    :raises EmbedtrainError: for a value that makes no sense.
    :raises SystemExit: with code 2, for an option that does not exist or cannot be read.
    """
    arguments = _spell_resume(sys.argv[1:] if arguments is None else arguments)

    if saved is not None:
        return _read(arguments, _read(saved.arguments) if saved.arguments else Fit(**saved.options))
    options = _read(arguments)
    return options if options.corpus else _read(arguments, Fit(**_BUILT_IN))


def _read(arguments: Sequence[str], default: Fit | None = None) -> Fit:
    try:
        return tyro.cli(Fit, args=arguments, prog="python -m embedtrain.fit", default=default or Fit())
    except SystemExit as error:
        if error.code:
            _translate(arguments)
        raise


def _translate(arguments: Sequence[str]) -> None:
    """Say what options of other trainers are here. They are not taken: each would be one more way to say a thing."""
    for argument in arguments:
        option = argument.partition("=")[0]
        name = option.lstrip("-").replace("_", "-").lower() if option.startswith("-") else ""
        if name in _ELSEWHERE:
            print(f"embedtrain: {option} is {_ELSEWHERE[name]} here", file=sys.stderr)
        elif name in _NEEDLESS:
            print(f"embedtrain: leave out {option}; skip-gram with negative sampling is all there is", file=sys.stderr)


def _spell_resume(arguments: Sequence[str]) -> list[str]:
    """Spell ``--resume FOLDER`` out as ``--out FOLDER --resume``.

    Whether what follows ``--resume`` is that folder, or a corpus, is told by what is in it.
    """
    result = list(arguments)
    for place in reversed([place for place, argument in enumerate(result[:-1]) if argument == "--resume"]):
        if (Path(result[place + 1]) / CHECKPOINTS).is_dir():
            result[place : place + 2] = ["--resume", "--out", result[place + 1]]
    return result


def spell(options: Fit) -> list[str]:
    """Return the arguments that give these options, all spelled out, but for where to write."""
    arguments = []
    for field in dataclasses.fields(options):
        if field.name in ("corpus", "out", "overwrite", "resume", "save_vocab"):
            continue
        name, value = field.name.replace("_", "-"), getattr(options, field.name)
        if isinstance(value, bool):
            arguments.append(f"--{name}" if value else f"--no-{name}")
        elif field.name in ("pairs", "analogies"):
            arguments += [f"--{name}", *map(str, value)] if value else []
        elif isinstance(value, tuple):
            arguments += [f"--{name}={each}" for each in value]
        elif value is not None:
            arguments.append(f"--{name}={value}")
    return [*map(str, options.corpus), *arguments]


def _corpus(options: Fit, progress: Progress) -> Any:
    if options.corpus:
        return options.corpus
    from embedtrain import stdlib_docs

    progress.note("no corpus given: reading the documentation of the Python standard library")
    return stdlib_docs.sentences()


def run(options: Fit, saved: Saved | None = None) -> Embeddings:
    """Train, show progress and write the result.

    :param saved: the checkpoint to go on from.
    :raises EmbedtrainError: if the input is bad or the output cannot be written. Nothing is left half written.
    """
    progress = Progress(quiet=sys.stderr is None)  # None: it is closed
    if options.resume and saved is None:
        if not options.corpus:
            raise EmbedtrainError(f"no checkpoint in {options.out / CHECKPOINTS} to go on from; name the corpus")
        progress.note(f"no checkpoint in {options.out / CHECKPOINTS}: starting from the beginning")
    examination = None
    if options.pairs or options.analogies:
        examination = Examination(options, options.evaluate_every, progress.note)
    with (
        OutputFolder(options.out, overwrite=options.overwrite or saved is not None) as output,
        Checkpoints(
            output.checkpoints, every=options.checkpoint_every, saved=saved, arguments=spell(options),
            note=progress.note,
        ) as checkpoints,
        Board(options.tensorboard, 0 if saved is None else saved.state.position) as board,
    ):  # fmt: skip

        def on_report(report: dict[str, Any]) -> None:
            output.log(report)
            board.log(report)

        def on_corpus(corpus: Corpus) -> None:
            words = corpus.vocabulary.words
            if corpus.tokenizer_json is None:
                words = [PAD, UNK, *words]
            check_export(options.export, words, unk_index=1, tokenizer_json=corpus.tokenizer_json)
            if options.save_vocab is not None:
                corpus.vocabulary.save(options.save_vocab)

        try:
            embeddings = options.fit(
                _corpus(options, progress), progress=progress, on_corpus=on_corpus, on_report=on_report,
                checkpoints=checkpoints, examination=examination,
            )  # fmt: skip
            output.commit(embeddings, tuple(dict.fromkeys(options.export)), checkpoints.last)
        except Diverged:  # would again
            raise
        except BaseException as error:
            if checkpoints.last is not None:
                progress.note(f"saved in {checkpoints.last}; go on with: {_go_on(options)}")
                if isinstance(error, KeyboardInterrupt):
                    sys.exit(128 + signal.SIGINT)
            raise
    return embeddings


def _go_on(options: Fit) -> str:
    """Return the command that resumes."""
    python = shutil.which("python")
    same = python is not None and Path(python).samefile(sys.executable)
    command = ["python" if same else sys.executable, "-m", "embedtrain.fit", "--resume", str(options.out)]
    return ("the same input | " if "-" in options.corpus else "") + shlex.join(command)


def _show(embeddings: Embeddings, folder: Path) -> None:
    """Print what a newcomer wants to see: what the words mean to each other, and how to go on."""
    from embedtrain.card import example_words

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for words that the terminal's encoding does not have
    print(f"\n{folder}{os.sep}: {len(embeddings):,} embeddings of {embeddings.dim} numbers. Nearest neighbours:\n")
    for word in example_words(embeddings, 6):
        near = ", ".join(f"{other} {similarity:.2f}" for other, similarity in embeddings.most_similar(word, topn=5))
        print(f"  {word:14} {near}")
    padding = "" if embeddings.pad_index is None else f", padding_idx={embeddings.pad_index}"
    print(
        f"""
Load it in PyTorch:

  import torch
  weight = torch.load({str(folder / "embedding.pt")!r})["weight"]
  embedding = torch.nn.Embedding.from_pretrained(weight, freeze=False{padding})
""",
        flush=True,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 2 for bad input, above 128 when interrupted.

    Of several ranks, all end with the same code, and 1 if one was lost.
    """
    try:
        code = run_command(lambda: _command(arguments), "lower --dim or --max-vocab, or raise --min-count")
    except SystemExit as error:
        distributed.end(error.code)
        raise
    distributed.end(code)
    return code


def _command(arguments: Sequence[str] | None) -> None:
    with distributed.first_alone():  # of ranks with the same mistake
        options = parse(arguments)
    if distributed.restarted():
        options = dataclasses.replace(options, resume=True)
    with distributed.join(resolve(options.device, options.negative) != "cpu") as ranks:
        saved = None
        if options.resume and distributed.rank() == 0:
            saved = newest(options.out / CHECKPOINTS, lambda line: print(line, file=sys.stderr))
            if saved is not None:
                options = dataclasses.replace(parse(arguments, saved), resume=True)
                saved.require_same_options(options)
        if options.resume and ranks is not None:  # only the first need see the folder
            options = ranks.from_first(options)
        if distributed.rank() > 0:  # the first shows and writes
            options.fit(_corpus(options, Progress(quiet=True)))
            return
        embeddings = run(options, saved)
    try:
        _show(embeddings, options.out)
    except OSError:  # nobody reads it (`| head`), or the disk is full; the result is in its place all the same
        drop_output()


if __name__ == "__main__":
    sys.exit(main())
