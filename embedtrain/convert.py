"""``python -m embedtrain.convert SOURCE out/``: other people's vectors as an embedtrain folder, for your vocabulary."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from embedtrain.checkpoint import OutputFolder
from embedtrain.cli import run_command
from embedtrain.errors import EmbedtrainError
from embedtrain.formats import Export
from embedtrain.progress import Progress
from embedtrain.reading import ReadOptions, read_with
from embedtrain.wanted import Wanted, wanted

if TYPE_CHECKING:
    from embedtrain.embeddings import Embeddings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Convert(ReadOptions):
    """Read word vectors of any known format and write them as a PyTorch checkpoint, and in other formats.

    Reads word2vec text and binary, GloVe, fastText .vec and .bin, floret, finalfusion, .npy, .npz, safetensors and
    folders of model2vec and embedtrain; plain, .gz, .bz2, .xz, .zst or in a .zip. The format is recognised.
    """

    source: tyro.conf.Positional[Path]
    """File or folder of vectors; "-" is standard input."""
    out: tyro.conf.Positional[Path] = Path("out")
    """Folder for the result. It must not exist, or be empty."""
    overwrite: bool = False
    """Replace an earlier result in the folder."""
    vocab: Path | None = None
    """Only these words, in this order: a file with a word per line, or "word count", or a tokenizer.json. Without: all words of the source."""  # noqa: E501
    corpus: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction] = ()
    """Only the words of this text file, most frequent first. May be given several times."""
    min_count: int = 5
    """With a corpus: words seen less often than this are left out."""
    max_vocab: int | None = None
    """With a corpus: at most this many words."""
    lowercase: bool = False
    """With a corpus: lower-case its words."""
    to: Annotated[tuple[Export, ...], tyro.conf.UseAppendAction] = ()
    """Write this format as well. May be given several times."""

    def __post_init__(self) -> None:
        """Refuse values that make no sense.

        :raises EmbedtrainError: naming the option and what is allowed.
        """
        super().__post_init__()
        if self.vocab is not None and self.corpus:
            raise EmbedtrainError("vocab and corpus both name the words to keep; leave out one of them")


def parse(arguments: Sequence[str] | None = None) -> Convert:
    """Read the command line.

    :raises EmbedtrainError: for a value that makes no sense.
    :raises SystemExit: with code 2, for an option that does not exist or cannot be read.
    """
    return tyro.cli(Convert, args=arguments, prog="python -m embedtrain.convert")


def run(options: Convert) -> Embeddings:
    """Read the source and write the result.

    :raises EmbedtrainError: if the input is bad or the output cannot be written. Nothing is left half written.
    """
    progress = Progress(quiet=sys.stderr is None)
    with OutputFolder(options.out, overwrite=options.overwrite) as output:
        embeddings = read_with(options, options.source, _vocabulary(options, progress), progress)
        output.commit(embeddings, export=options.to)
    return embeddings


def _vocabulary(options: Convert, progress: Progress) -> Wanted | None:
    if options.vocab is not None:
        return wanted(options.vocab)
    if not options.corpus:
        return None
    from embedtrain import corpus
    from embedtrain.options import Options

    counting = Options(min_count=options.min_count, max_vocab=options.max_vocab, lowercase=options.lowercase)
    with progress.counting() as update:
        return wanted(corpus.encode(list(options.corpus), counting, update, on_share=update.encoding).vocabulary)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""

    def command() -> None:
        options = parse(arguments)
        embeddings = run(options)
        print(f"{options.out}: {len(embeddings):,} embeddings of {embeddings.dim} numbers")

    return run_command(command, "read fewer rows (--limit, --vocab) or smaller numbers (--dtype float16)")


if __name__ == "__main__":
    sys.exit(main())
