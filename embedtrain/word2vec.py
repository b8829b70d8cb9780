"""The estimator: options in, ``fit(corpus)``, embeddings out."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import embedtrain
from embedtrain import corpus as corpora
from embedtrain import device, distributed, finding
from embedtrain.arrow import is_table
from embedtrain.errors import EmbedtrainError
from embedtrain.interrupt import HeldSignals
from embedtrain.options import Options
from embedtrain.progress import Progress

if TYPE_CHECKING:
    from embedtrain.corpus import Corpus
    from embedtrain.distributed import Ranks
    from embedtrain.embeddings import Embeddings
    from embedtrain.examination import Examination
    from embedtrain.training_state import Checkpoints

# Bytes read before torch is imported beside the reading. What is less is read, or refused, before that would help.
_WORTH_IMPORTING = 1 << 20

_FILES_NAMED = 3


class Word2Vec(Options):
    """Skip-gram word2vec with negative sampling.

    >>> Word2Vec(dim=100, epochs=5).fit("corpus.txt")
    >>> Word2Vec(min_count=1).fit([["a", "sentence"], ["another", "one"]])

    The arguments are the fields of :class:`embedtrain.options.Options`.
    """

    def fit(
        self,
        corpus: str | Path | Sequence[str | Path] | Iterable[Sequence[str]] | Any,
        *,
        progress: Progress | None = None,
        on_corpus: Callable[[Corpus], None] = lambda corpus: None,
        on_report: Callable[[dict[str, Any]], None] = lambda report: None,
        checkpoints: Checkpoints | None = None,
        examination: Examination | None = None,
    ) -> Embeddings:
        """Read the corpus once and train on it.

        :param corpus: a file, several files, or any iterable of sentences, each a list of words (a generator will do).
            In files a sentence is a line, and words are what white space separates. "-" is standard input; folders,
            globs, URLs and other kinds of files: :func:`embedtrain.finding.find`. A ``datasets.Dataset`` or a
            ``pyarrow.Table`` with a column of text, or of lists of words or ids, will do as well.
        :param progress: where to show progress; by default it is not shown.
        :param on_corpus: called with the encoded corpus, before training.
        :param on_report: called about a hundred times during training, with position, epoch, loss, rate and
            words_per_second.
        :param checkpoints: where to save the training at times, and what to go on from; by default nothing is saved.
        :param examination: what evaluates the embeddings at times; the scores are in the reports.
        :raises EmbedtrainError: what is wrong with the corpus or the machine, and what to do.

        Under torchrun all ranks call this with the same arguments, but that only the first has checkpoints, and all are
        given the result.
        """
        chosen = device.resolve(self.device, self.negative)
        with distributed.join(chosen != "cpu") as ranks:
            return self._fit(corpus, chosen, ranks, progress, on_corpus, on_report, checkpoints, examination)

    def _fit(
        self,
        corpus: Any,
        chosen: str,
        ranks: Ranks | None,
        progress: Progress | None,
        on_corpus: Callable[[Corpus], None],
        on_report: Callable[[dict[str, Any]], None],
        checkpoints: Checkpoints | None,
        examination: Examination | None,
    ) -> Embeddings:
        saved = None if checkpoints is None else checkpoints.saved
        if saved is not None:
            saved.require_same_options(self)
        elif self.init_from is not None and not self.init_from.exists():
            raise EmbedtrainError(f"{self.init_from}: no such file or folder to take the initial vectors from")
        if isinstance(self.lock, Path) and not self.lock.exists():
            raise EmbedtrainError(f"{self.lock}: no such file of words to lock")
        progress = progress or Progress(quiet=True)
        if ranks is not None:
            ranks.agree(self._facts(corpus, chosen))
        with _import_ahead() as import_ahead:
            encoded = self._encode(corpus, progress, ranks, import_ahead)
            _note(encoded, progress)
        if encoded.size == encoded.sentences:
            raise EmbedtrainError(
                "no sentence has two words that are trained, so no word has a context; a sentence is a line: put more "
                "than one word on it"
            )
        on_corpus(encoded)

        from embedtrain.train import train  # not at the top: torch takes a second to import

        if chosen != "cpu":
            progress.note(f"training on {device.describe(chosen)}")
        return train(encoded, self, progress, on_report, chosen, checkpoints, examination, ranks)

    def _encode(self, corpus: Any, progress: Progress, ranks: Ranks | None, import_ahead: Callable[[], None]) -> Corpus:
        if not (isinstance(corpus, (str, os.PathLike)) or _is_files(corpus) or is_table(corpus)):
            return corpora.encode(corpus, self, ranks=ranks)
        with progress.counting() as update:

            def on_bytes(done: int, total: int | None) -> None:
                if done >= _WORTH_IMPORTING and self.tokenizer is None:  # a tokenizer changes the environment
                    import_ahead()
                update(done, total)
                if ranks is not None:
                    ranks.check()

            def on_share(share: float) -> None:
                update.encoding(share)
                if ranks is not None:
                    ranks.check()

            return corpora.encode(corpus, self, on_bytes, progress.note, ranks, on_share)

    def _facts(self, corpus: Any, chosen: str) -> dict[str, Any]:
        """Return what ranks that train together have in common."""
        facts: dict[str, Any] = {"embedtrain": embedtrain.__version__}
        for name, value in self.to_dict().items():
            if name == "device":
                value = chosen.partition(":")[0]
            if name != "workers":
                facts[f"--{name.replace('_', '-')}"] = value
        files = [self.tokenizer, self.read_vocab, self.init_from, self.lock if isinstance(self.lock, Path) else None]
        if not self.local_shard and (isinstance(corpus, (str, os.PathLike)) or _is_files(corpus)):
            found = map(finding.find, [corpus] if isinstance(corpus, (str, os.PathLike)) else corpus)
            names = [file.name for each in found for file in each.files]
            facts["the files"] = ", ".join(names[:_FILES_NAMED]) + f" … ({len(names)})" * (len(names) > _FILES_NAMED)
            files += map(Path, names)
        return facts | {f"a file {path}": corpora.glance(path) for path in files if path is not None and path.is_file()}


@contextmanager
def _import_ahead() -> Iterator[Callable[[], None]]:
    """Give a function that starts to import what training needs, torch above all, beside the work in this block.

    The block does not end before the import has: an interpreter that ends in the middle of it may crash.
    """
    thread: threading.Thread | None = None

    def run() -> None:
        with suppress(Exception):  # comes again where training is imported in earnest
            import_module("embedtrain.train")

    def start() -> None:
        nonlocal thread
        if thread is None:
            with HeldSignals():  # a thread that was interrupted as it started could not be waited for
                thread = threading.Thread(target=run, name="embedtrain-import", daemon=True)
                thread.start()

    try:
        yield start
    finally:
        if thread is not None:
            thread.join()


def _is_files(corpus: object) -> bool:
    return isinstance(corpus, Sequence) and all(isinstance(item, (str, os.PathLike)) for item in corpus)


def _note(corpus: Corpus, progress: Progress) -> None:
    """Say what was read and what of it is not trained on."""
    words = int((corpus.vocabulary.counts > 0).sum())
    progress.note(
        f"{corpus.tokens_read:,} tokens in {corpus.lines:,} lines; training on {corpus.size:,} tokens of "
        f"{words:,} different words"
    )
    why = {
        "out_of_vocabulary": "are rare (min-count), beyond max-vocab or not in the vocabulary",
        "invalid_utf8": "are not UTF-8 text",
        "pad_token": "are <pad>",
    }
    for reason, count in corpus.dropped.items():
        progress.note(f"left out {count:,} tokens that {why[reason]}")
    if corpus.replaced:
        progress.note(f"put U+FFFD for bytes that are not UTF-8 text in {corpus.replaced:,} tokens")
