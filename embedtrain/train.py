"""From an encoded corpus to embeddings: the tables, the threads that train them, and what becomes of the result."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

import embedtrain
from embedtrain import cuda, ops
from embedtrain.corpus import Corpus
from embedtrain.device import describe, machine
from embedtrain.embeddings import Embeddings
from embedtrain.errors import EmbedtrainError
from embedtrain.evaluation import Evaluation
from embedtrain.examination import Examination
from embedtrain.local_sgd import LocalSgd, RankKeeper
from embedtrain.loop import Engine, Report, State, train_blocks
from embedtrain.options import Options
from embedtrain.progress import Progress
from embedtrain.training_state import Checkpoints, require_finite
from embedtrain.vocabulary import PAD, UNK

if TYPE_CHECKING:
    from embedtrain.distributed import Ranks

# Tokens per worker and call of the kernel: a twentieth of a second, so that the progress bar moves and Ctrl-C is heard.
_BLOCK_TOKENS = 1 << 17
# Tokens a thread that a call is worth.
_LEAST_TOKENS = 1 << 13
# The row of unknown words is the mean of so many of the rarest words, as in GloVe.
_RARE_WORDS = 100


def train(
    corpus: Corpus,
    options: Options,
    progress: Progress,
    log: Callable[[Report], None],
    device: str = "cpu",
    checkpoints: Checkpoints | None = None,
    examination: Examination | None = None,
    ranks: Ranks | None = None,
) -> Embeddings:
    """Train embeddings on an encoded corpus.

    :param log: called with each report, a line of metrics.jsonl.
    :param device: as :func:`embedtrain.device.resolve` gives it.
    :param checkpoints: where to save, and what to go on from. Of several ranks, only the first has them.
    :param examination: evaluates the input table at times; the scores are in the reports, the last evaluation in the
        config of the result. Of several ranks, only the first has one.
    :param ranks: those that train with this one, each its part of the corpus.
    :raises EmbedtrainError: if the tables do not fit into memory, training diverges, a checkpoint cannot be written, or
        that to go on from is of another corpus, or the GPU fails.
    """
    with nullcontext() if device == "cpu" else cuda.explained(torch.device(device), "training"):
        return _train(corpus, options, progress, log, device, checkpoints, examination, ranks)


def _train(
    corpus: Corpus,
    options: Options,
    progress: Progress,
    log: Callable[[Report], None],
    device: str,
    checkpoints: Checkpoints | None,
    examination: Examination | None,
    ranks: Ranks | None,
) -> Embeddings:
    size, epochs = corpus.size, options.epochs
    on_cpu = device == "cpu"
    input, output = (
        _tables(len(corpus.vocabulary), options) if on_cpu else cuda.tables(len(corpus.vocabulary), options, device)
    )
    described = _describe(corpus)
    if ranks is None:
        start = _start(corpus, options, progress, described, input, output, checkpoints)
    else:
        mine = None
        if ranks.rank == 0:
            mine = _start(corpus, options, progress, described, input, output, checkpoints)
        start = ranks.from_first(mine)
        if start.state.position or start.source is not None:
            ranks.broadcast(input)
            ranks.broadcast(output)
    state = start.state
    make = partial(Threads if on_cpu else cuda.Gpu, options=options, input=input, output=output, locked=start.locked)
    engine: Engine
    keeper: Checkpoints | RankKeeper | None = checkpoints if start.saves else None
    if ranks is None:
        engine = make(corpus)
    else:
        torch.set_num_threads(max(torch.get_num_threads(), options.workers))  # torchrun has set one; exchanges use them
        least = _LEAST_TOKENS * options.workers if on_cpu else cuda.LEAST_TOKENS
        engine = several = LocalSgd(make, corpus, options, ranks, state, least)
        keeper = RankKeeper(several, checkpoints) if start.saves else None
    evaluation: Evaluation | None = None
    if examination is not None:
        examination.begin(corpus, epochs, state.position)
    with nullcontext() if keeper is None else keeper.signals:
        if state.position < size * epochs:
            with progress.training(size * epochs, epochs, state.position) as update:
                for report, finished in train_blocks(engine, size, options, state, keeper):
                    update(
                        report["position"],
                        loss=report["loss"],
                        rate=report["rate"],
                        words_per_second=report["words_per_second"],
                    )
                    if finished:
                        if examination is not None and examination.due(report["position"]):
                            with progress.aside():
                                if ranks is None:
                                    engine.synchronise()
                                evaluation = examination.examine(input, report["position"])
                            report["evaluation"] = evaluation.scores()
                        log(report)
        require_finite("input", input, options.to_dict())
        require_finite("output", output, options.to_dict())
        if start.saves and checkpoints is not None:
            checkpoints.finish(state, input, output)
    cost = engine.cost if isinstance(engine, LocalSgd) else {}
    if ranks is not None:
        evaluation = None  # it was of this rank's tables, between two exchanges
    reports = state.reports
    del output, engine, make  # makes room for the result
    input = input.cpu()
    if all(math.isnan(report["loss"]) for report in reports):
        progress.note(
            f"no two words of a sentence were left by --sample {options.sample:g}: nothing was trained; pass 0"
        )
    config: dict[str, Any] = {
        "options": options.to_dict(),
        "corpus": described,
        "results": {
            "final_loss": reports[-1]["loss"],
            "words_per_second": round(size * epochs / max(state.seconds, 1e-9)),
            "training_seconds": round(state.seconds, 3),
            "kernel": describe(device),
            "machine": machine(),
        },
        "versions": {
            "embedtrain": embedtrain.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }
    if examination is not None:
        if evaluation is None:  # there was nothing left to train, or ranks have met since
            evaluation = examination.examine(input, state.position)
        config["evaluation"] = evaluation.to_dict()
    if ranks is not None:
        config["results"] |= {"ranks": ranks.size, **cost}
    if start.source is not None:
        config["init_from"] = dict(start.source)
    assemble = _by_word if corpus.tokenizer_json is None else _by_token_id
    return assemble(input, corpus, config, reports)


@dataclass(frozen=True)
class _Start:
    """What a training starts from, besides the tables."""

    state: State
    source: Mapping[str, Any] | None  # of the vectors, as config.json has it
    locked: Tensor | None
    saves: bool


def _start(
    corpus: Corpus,
    options: Options,
    progress: Progress,
    described: dict[str, Any],
    input: Tensor,
    output: Tensor,
    checkpoints: Checkpoints | None,
) -> _Start:
    """Fill the tables from a checkpoint or from vectors, if there are some."""
    size, epochs = corpus.size, options.epochs
    saved = None if checkpoints is None else checkpoints.saved
    source: Mapping[str, Any] | None = None
    locked = None
    if saved is not None:
        saved.require_same_corpus(described)
        source = saved.source
    if options.init_from is not None and (saved is None or options.lock is not None):
        source, locked = _start_from(options.init_from, options.lock, input, corpus, progress)
    if saved is not None:
        kept = None if locked is None else input[locked]
        saved.load(input, output)
        if source != saved.source or (kept is not None and not torch.equal(kept, input[locked])):
            raise EmbedtrainError(
                f"{saved.path} is of a training with other locked words or vectors; {options.init_from} or "
                f"{options.lock} has changed since. Bring back the old one, or start anew in another folder"
            )
        progress.note(f"going on from {saved.path}, {saved.state.position / size:.2f} of {epochs} epochs")
    state = State() if checkpoints is None else checkpoints.begin(options, described, source)
    return _Start(state, source, locked, checkpoints is not None and bool(checkpoints.every))


def _tables(rows: int, options: Options) -> tuple[Tensor, Tensor]:
    try:
        tables = ops.new_table(rows, options.dim), ops.new_table(rows, options.dim)
    except RuntimeError as error:  # what torch raises when memory runs out
        size = 2 * rows * options.dim * 4 / 1e9
        raise EmbedtrainError(
            f"no memory for two tables of {rows:,} x {options.dim} ({size:.1f} GB); lower --dim or --max-vocab, or "
            "raise --min-count"
        ) from error
    ops.initial_weights(tables[0], 0, options.seed)
    return tables


def _start_from(
    path: Path, lock: Path | str | None, input: Tensor, corpus: Corpus, progress: Progress
) -> tuple[dict[str, Any], Tensor | None]:
    """Put the vectors of a source in the place of the initial weights.

    The output table still starts at zero: files of vectors do not hold it.

    :param lock: the words to keep as the source has them, as in the options.
    :param input: (V, D); rows of words that the source lacks are left alone.
    :return: the report of what the source covers; and which rows to keep, bool (V,), None if none.
    """
    from embedtrain.reading import ReadOptions, read_with
    from embedtrain.wanted import Wanted

    wanted = Wanted(corpus.vocabulary.words, corpus.vocabulary.counts)
    vectors = read_with(ReadOptions(special_rows=False), path, wanted, progress)
    if vectors.dim != input.shape[1]:
        raise EmbedtrainError(
            f"{path} has vectors of {vectors.dim} numbers, not {input.shape[1]}; pass --dim {vectors.dim}"
        )
    covered = torch.ones(len(vectors), dtype=torch.bool)
    if vectors.missing is not None:
        covered = ~torch.from_numpy(vectors.missing)
        progress.note("words that are missing start from random numbers, as usual")
    rows = covered.nonzero().squeeze(1)
    input[rows.to(input.device)] = vectors.weight[rows].to(input.device)
    source: dict[str, Any] = vectors.config["source"]
    if lock is None:
        return source, None
    locked = covered if lock == "source" else covered & _are_in(lock, corpus, progress)
    count = int(locked.sum())
    if count == 0:
        raise EmbedtrainError(f"{lock}: not one of these words is both in the corpus and in {path}; nothing to lock")
    progress.note(f"{count:,} of {len(locked):,} words are locked: their vectors stay as {path} has them")
    return source | {"locked": count}, locked.to(input.device)


def _are_in(lock: Path | str, corpus: Corpus, progress: Progress) -> Tensor:
    """Return which words of the vocabulary a file lists, bool (V,)."""
    from embedtrain.wanted import wanted

    listed = set(wanted(lock).words)
    found = torch.tensor([word in listed for word in corpus.vocabulary.words])
    if absent := len(listed) - int(found.sum()):
        progress.note(f"{absent:,} of the {len(listed):,} words of {lock} are not in the vocabulary")
    return found


class Threads:
    """Trains on the threads of this machine.

    :param input: float32 (V, D), from :func:`embedtrain.ops.new_table`. :param output: likewise.
    :param locked: bool (V,), words whose row of input stays as it is; None: no word.
    """

    ahead = 0

    def __init__(
        self, corpus: Corpus, options: Options, input: Tensor, output: Tensor, locked: Tensor | None = None
    ) -> None:
        self.input, self.output = input, output
        self.block_tokens = _BLOCK_TOKENS * options.workers
        counts = torch.from_numpy(corpus.vocabulary.counts)
        noise = ops.alias_table(counts, options.ns_exponent)
        keep = ops.keep_thresholds(counts, options.sample)
        self._ids, self._offsets = ops.as_tensor(corpus.ids), ops.as_tensor(corpus.offsets)
        schedule = ops.Schedule.of(options, corpus.size)
        self._trainer = ops.Trainer(input, output, keep, noise, schedule, options.workers, locked)

    def train(
        self, epoch: int, begin: int, end: int, *, first_position: int = 0, progress: int | None = None, pace: int = 1
    ) -> Callable[[], Sequence[float]]:
        """Train at once. The arguments are those of :meth:`embedtrain.ops.Trainer.train`."""
        stats = torch.zeros(3, dtype=torch.float64)
        self._trainer.train(
            stats, self._ids, self._offsets, begin, end, first_position=first_position, epoch=epoch,
            progress=progress, pace=pace,
        )  # fmt: skip
        return stats.tolist

    def synchronise(self) -> None:
        """Bring into the tables what the threads have learned."""
        self._trainer.synchronise()


def _describe(corpus: Corpus) -> dict[str, Any]:
    return {
        "sources": [{"name": each.name, "size": each.size, "files": len(each.files)} for each in corpus.sources],
        "lines": corpus.lines,
        "tokens_read": corpus.tokens_read,
        "tokens": corpus.size,
        "sentences": corpus.sentences,
        "words": int(np.count_nonzero(corpus.vocabulary.counts)),
        "dropped": corpus.dropped,
        "replaced": corpus.replaced,
        "fingerprint": corpus.fingerprint,
    }


def _by_word(table: Tensor, corpus: Corpus, config: dict[str, Any], reports: list[Report]) -> Embeddings:
    """Row 0 is for padding, row 1 for unknown words, then come the words by frequency."""
    words, counts = corpus.vocabulary.words, corpus.vocabulary.counts
    rows = [row for row, word in enumerate(words) if word != UNK]
    unknown = len(rows) < len(words)  # the corpus has the word <unk>, and so it is trained
    weight = torch.zeros(2 + len(rows), table.shape[1])
    weight[1] = table[words.index(UNK)] if unknown else table[-_RARE_WORDS:].mean(dim=0)
    weight[2:] = table[rows] if unknown else table
    config["special_rows"] = {
        PAD: "zeros",
        UNK: "trained" if unknown else f"mean of the {min(_RARE_WORDS, len(words))} rarest words",
    }
    return Embeddings(
        weight,
        [PAD, UNK, *(words[row] for row in rows)],
        counts=np.concatenate([[0, counts[words.index(UNK)] if unknown else 0], counts[rows]]),
        pad_index=0,
        unk_index=1,
        config=config,
        metrics=reports,
    )


def _by_token_id(table: Tensor, corpus: Corpus, config: dict[str, Any], reports: list[Report]) -> Embeddings:
    """Row n is token n of the tokenizer; tokens that were not trained keep their initial weights."""
    from embedtrain.corpus import special_tokens

    assert corpus.tokenizer_json is not None
    pad_index, unk_index = special_tokens(corpus.tokenizer_json)
    weight = table.contiguous()
    if pad_index is not None:
        weight[pad_index] = 0
    return Embeddings(
        weight,
        corpus.vocabulary.words,
        counts=corpus.vocabulary.counts,
        pad_index=pad_index,
        unk_index=unk_index,
        config=config,
        metrics=reports,
        tokenizer_json=corpus.tokenizer_json,
    )
