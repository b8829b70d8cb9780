"""``python -m embedtrain.fit corpus.txt``: train embeddings and write the result folder."""

from __future__ import annotations

import dataclasses
import io
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from embedtrain.checkpoint import OutputFolder
from embedtrain.errors import EmbedtrainError
from embedtrain.formats import Export, check_export
from embedtrain.progress import Progress
from embedtrain.vocabulary import PAD, UNK
from embedtrain.word2vec import Word2Vec

if TYPE_CHECKING:
    from embedtrain.corpus import Corpus
    from embedtrain.embeddings import Embeddings

# The built-in corpus is so small that it wants more, and bolder, passes.
_BUILT_IN: dict[str, Any] = {"epochs": 40, "alpha": 0.05}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fit(Word2Vec):
    """Train word2vec embeddings on text and write them as a PyTorch checkpoint.

    In the corpus a sentence is a line, and words are what white space separates.
    """

    corpus: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Text files, plain or compressed (gz, bz2, xz, zst); "-" is standard input. Without one: the documentation of the Python standard library, with epochs 40 and alpha 0.05."""  # noqa: E501
    out: Path = Path("out")
    """Folder for the result. It must not exist, or be empty."""
    overwrite: bool = False
    """Replace an earlier result in the folder."""
    export: Annotated[tuple[Export, ...], tyro.conf.UseAppendAction] = ()
    """Write this format as well: embedding.npy; safetensors with tokenizer.json (sentence-transformers, model2vec); word2vec text or binary; GloVe text. May be given several times."""  # noqa: E501
    save_vocab: Path | None = None
    """Write the words and their counts to this file ("word count" a line)."""


def parse(arguments: Sequence[str] | None = None) -> Fit:
    """Read the command line.

    :raises EmbedtrainError: for a value that makes no sense.
    :raises SystemExit: with code 2, for an option that does not exist or cannot be read.
    """
    options = tyro.cli(Fit, args=arguments, prog="python -m embedtrain.fit")
    if not options.corpus:
        options = tyro.cli(Fit, args=arguments, prog="python -m embedtrain.fit", default=Fit(**_BUILT_IN))
    return options


def run(options: Fit) -> Embeddings:
    """Train and write the result.

    :raises EmbedtrainError: if the input is bad or the output cannot be written. Nothing is left half written.
    """
    progress = Progress(quiet=sys.stderr is None)  # None: it is closed
    with OutputFolder(options.out, overwrite=options.overwrite) as output:

        def on_corpus(corpus: Corpus) -> None:
            words = corpus.vocabulary.words
            if corpus.tokenizer_json is None:
                words = [PAD, UNK, *words]
            check_export(options.export, words, unk_index=1, tokenizer_json=corpus.tokenizer_json)
            if options.save_vocab is not None:
                corpus.vocabulary.save(options.save_vocab)

        if options.corpus:
            corpus: Any = options.corpus
        else:
            from embedtrain import stdlib_docs

            progress.note("no corpus given: reading the documentation of the Python standard library")
            corpus = stdlib_docs.sentences()
        embeddings = options.fit(corpus, progress=progress, on_corpus=on_corpus, on_report=output.log)
        output.commit(embeddings, export=options.export)
    return embeddings


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
    """Run the command line; return its exit code: 0, 2 for bad input, above 128 when interrupted."""
    # An orderly exit, so that the temporary folder is removed.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        options = parse(arguments)
        embeddings = run(options)
    except EmbedtrainError as error:
        print(f"embedtrain: {error}", file=sys.stderr)
        return 2
    except MemoryError:
        print("embedtrain: out of memory; lower --dim or --max-vocab, or raise --min-count", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("embedtrain: interrupted; nothing was written", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the progress has gone
        return 128 + signal.SIGPIPE
    try:
        _show(embeddings, options.out)
    except OSError:  # nobody reads it (`| head`), or the disk is full; the result is in its place all the same
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at its end
    return 0


if __name__ == "__main__":
    sys.exit(main())
