"""The state of a training on disk, so that it can go on after a crash, and on to more epochs.

(The result of a training, the folder with ``embedding.pt``, is :mod:`embedtrain.checkpoint`'s.)

A checkpoint is one file, ``000012.safetensors``, in the format of safetensors (a JSON header, then raw numbers):

============ ==========================================================================================================
``input``    float32 (V, D), the input table
``output``   float32 (V, D), the output table
``sha256``   uint8 (32,), the SHA-256 of all bytes before it: a flipped byte or a cut anywhere is noticed
metadata     under ``embedtrain``, JSON: position, sums since the last report, all reports, options, corpus with its
             fingerprint, and what was typed
============ ==========================================================================================================

It is written under a temporary name, fsynced and renamed; then all but the last two are deleted. Nothing in it is code,
and nothing of it is used before the checksum has been compared.

Importing this module does not import torch, so that what cannot go on is refused at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import embedtrain
from embedtrain.errors import EmbedtrainError
from embedtrain.files import explained, lock, sync
from embedtrain.interrupt import HeldSignals
from embedtrain.loop import State
from embedtrain.memory import available_memory
from embedtrain.options import Options

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION = 1
EVERY = "10m"

_KEPT = 2
_CHUNK_BYTES = 4 << 20
_DIGEST_BYTES = 32
_NAME = re.compile(r"([0-9]{6,})\.safetensors")
_PARTIAL = ".partial"
_INTERVAL = re.compile(r"([0-9]+(?:\.[0-9]+)?)(s|m|h|[kMG]?tokens)")
_UNITS = {"s": 1, "m": 60, "h": 3600, "tokens": 1, "ktokens": 1e3, "Mtokens": 1e6, "Gtokens": 1e9}
# What may change between a training and its continuation: how, but not what, is trained.
# Of the tokenizer and the vocabulary, what they give is compared.
_FREE = frozenset({"workers", "device", "tokenizer", "read_vocab", "cache", "cache_dir"})


@dataclass(frozen=True)
class Interval:
    """How often to save: so many seconds, or so many tokens; never if neither is set."""

    seconds: float | None = None
    tokens: float | None = None

    @staticmethod
    def parse(text: str) -> Interval:
        """Read ``30s``, ``10m``, ``1.5h``, ``50Mtokens``, or ``off``.

        :raises EmbedtrainError: if it is none of these.
        """
        if text == "off":
            return Interval()
        match = _INTERVAL.fullmatch(text)
        if match is None or float(match[1]) == 0:
            raise EmbedtrainError(
                f"checkpoint-every must be a time (30s, 10m, 1h), a number of tokens (50Mtokens), or off, not {text!r}"
            )
        value = float(match[1]) * _UNITS[match[2]]
        return Interval(tokens=value) if match[2].endswith("tokens") else Interval(seconds=value)

    def __bool__(self) -> bool:
        return self.seconds is not None or self.tokens is not None


# ---- reading


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was found intact.

    :param shape: (V, D) of both tables.
    :param options: of the training, as :meth:`embedtrain.options.Options.to_dict` gives them.
    :param corpus: what was trained on, as config.json has it.
    :param source: what the training started from (``--init-from``), as config.json has it; None for random numbers.
    :param arguments: of the command line that trained, all of them spelled out; empty if it was none.
    """

    path: Path
    state: State
    shape: tuple[int, int]
    options: Mapping[str, Any]
    corpus: Mapping[str, Any]
    source: Mapping[str, Any] | None
    arguments: Sequence[str]
    header_bytes: int

    def require_same_options(self, options: Options) -> None:
        """Refuse to go on with other options.

        :raises EmbedtrainError: naming each that differs, old and new. Only epochs may be raised; workers and device
            may be anything.
        """
        new = options.to_dict()
        changed = [
            f"{name.replace('_', '-')} was {old}, is {new[name]}"
            for name, old in self.options.items()
            if name not in _FREE | {"epochs"} and new.get(name) != old
        ]
        if changed:
            raise EmbedtrainError(
                f"{self.path} is of a training with other options: {'; '.join(changed)}. Go on with the old ones "
                "(leave them out: they are taken from the checkpoint), or start anew in another folder"
            )
        if new["epochs"] < self.options["epochs"]:
            raise EmbedtrainError(
                f"{self.path} is of a training with epochs {self.options['epochs']}; they may be raised, not lowered "
                f"to {new['epochs']}"
            )

    def require_same_corpus(self, corpus: Mapping[str, Any]) -> None:
        """Refuse to go on with another corpus.

        :param corpus: as config.json describes it.
        :raises EmbedtrainError: saying what differs.
        """
        if corpus["fingerprint"] == self.corpus["fingerprint"]:
            return
        changed = [
            f"{name.replace('_', ' ')} {_spell(old)}, now {_spell(corpus[name])}"
            for name, old in self.corpus.items()
            if name != "fingerprint" and corpus.get(name, old) != old
        ]
        raise EmbedtrainError(
            f"{self.path} is of a training on another corpus: "
            f"{'; '.join(changed) or 'as many tokens and words, but not the same or in another order'}. Go on with the "
            "old corpus, or start anew in another folder"
        )

    def load(self, input: Tensor, output: Tensor) -> None:
        """Fill two tables (V, D), on any device.

        :raises EmbedtrainError: if the file is no longer what it was.
        """
        import torch

        changed = EmbedtrainError(f"{self.path} was changed or damaged after it was checked; try again")
        if tuple(input.shape) != self.shape or tuple(output.shape) != self.shape:
            raise EmbedtrainError(f"{self.path} holds tables {self.shape}, not {tuple(input.shape)}")
        try:
            with self.path.open("rb") as file:
                digest = hashlib.sha256(file.read(self.header_bytes))
                for table in (input, output):
                    for rows in _chunks(table):
                        data = bytearray(4 * rows.numel())
                        if file.readinto(data) != len(data):
                            raise changed
                        digest.update(data)
                        rows.copy_(torch.frombuffer(data, dtype=torch.float32).view(rows.shape))
                if file.read() != digest.digest():
                    raise changed
        except OSError as error:
            raise EmbedtrainError(f"cannot read {self.path}: {error.strerror}") from error


def _spell(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, (list, tuple)):  # sources
        return ", ".join(
            f"{each['name']} ({'unknown size' if each['size'] is None else format(each['size'], ',') + ' bytes'})"
            for each in value
        )
    return str(value)


def numbers(folder: Path) -> dict[int, Path]:
    """Return the checkpoints in a folder by their numbers, in order, whether intact or not."""
    try:
        found = {int(match[1]): path for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise EmbedtrainError(f"cannot read the checkpoints in {folder}: {error.strerror}") from error
    return dict(sorted(found.items()))


def is_checkpoint(name: str) -> bool:
    """Say whether a file is a checkpoint, by its name."""
    return _NAME.fullmatch(name) is not None


def is_own(name: str) -> bool:
    """Say whether a file is a checkpoint, or one that was not finished."""
    return is_checkpoint(name.removesuffix(_PARTIAL))


def lock_checkpoints(folder: Path) -> int | None:
    """Take a folder of checkpoints for this process, as :func:`embedtrain.files.lock` does.

    :raises EmbedtrainError: if another process trains with it.
    """
    try:
        return lock(folder)
    except BlockingIOError:
        raise EmbedtrainError(
            f"another process trains with its checkpoints in {folder}; wait for it, or choose another folder"
        ) from None


def newest(folder: Path, note: Callable[[str], None] = lambda line: None) -> Saved | None:
    """Find the newest intact checkpoint in a folder; None if there is no checkpoint.

    :param note: called with a line for each newer one that is damaged.
    :raises EmbedtrainError: if there are checkpoints, but none is intact.
    """
    damaged = 0
    for path in reversed(numbers(folder).values()):
        problem = _problem(path)
        if problem is None:
            return _parse(path)
        note(f"{path} {problem}; falling back on the one before it")
        damaged += 1
    if damaged:
        raise EmbedtrainError(f"no checkpoint in {folder} is intact; start anew (--overwrite), or in another folder")
    return None


def _problem(path: Path) -> str | None:
    """Compare the checksum; say what is wrong."""
    digest = hashlib.sha256()
    try:
        left = path.stat().st_size - _DIGEST_BYTES
        with path.open("rb") as file:
            while left > 0 and (data := file.read(min(left, _CHUNK_BYTES))):
                digest.update(data)
                left -= len(data)
            same = left == 0 and file.read() == digest.digest()
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None if same else "is damaged or cut off (its checksum does not fit)"


def _parse(path: Path) -> Saved:
    """Read the header of a file whose checksum is right."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, path.stat().st_size)))
        about = json.loads(header["__metadata__"]["embedtrain"])
        version = about["format_version"]
        if version != FORMAT_VERSION:
            raise EmbedtrainError(
                f"{path} has format version {version}, this embedtrain reads {FORMAT_VERSION}; use the embedtrain that "
                f"wrote it ({about['versions']['embedtrain']})"
            )
        rows, dim = header["input"]["shape"]
        return Saved(
            path, State(**about["state"]), (rows, dim), about["options"], about["corpus"], about["source"],
            about["arguments"], 8 + length,
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise EmbedtrainError(f"{path} is not a checkpoint of an embedtrain training: {error!r}") from error


# ---- writing


class Diverged(EmbedtrainError):
    """A table has NaN or infinity in it."""


class _Cancelled(Exception):
    """What is being written is to be given up."""


def require_finite(name: str, table: Tensor, options: Mapping[str, Any], first_row: int = 0) -> None:
    """Refuse a table with NaN or infinity in it.

    :param name: input or output. :param table: (rows, D). :param options: of the training, for the message.
    :raises Diverged: saying where, and what is likely to be the reason.
    """
    for rows in _chunks(table):
        finite = rows.isfinite()
        if not finite.all():
            row = first_row + int((~finite.all(dim=1)).nonzero()[0])
            raise Diverged(
                f"training diverged: the {name} table has NaN or infinity in row {row:,}; lower --alpha "
                f"({options['alpha']:g})" + (" or --workers" if options["workers"] > 1 else "") + " and start anew"
            )
        first_row += len(rows)


def _chunks(table: Tensor) -> Iterator[Tensor]:
    """Yield a table's rows, some megabytes at a time."""
    step = max(1, _CHUNK_BYTES // (4 * table.shape[1]))
    return (table[start : start + step] for start in range(0, len(table), step))


def _copies(input: Tensor, output: Tensor) -> tuple[Tensor, Tensor] | None:
    """Copy the tables to other memory of the host; None if it is too short."""
    import torch

    available = available_memory()
    if available is not None and input.nbytes + output.nbytes > 0.9 * available:
        return None
    try:
        copies = tuple(torch.empty(table.shape, dtype=table.dtype).copy_(table) for table in (input, output))
    except RuntimeError:  # what torch raises when memory runs out
        return None
    return copies[0], copies[1]


class Checkpoints:
    """Saves a training at times, into a folder, and knows what it goes on from.

        with Checkpoints("state", every="5m", resume=True) as checkpoints:
            embeddings = Word2Vec().fit("corpus.txt", checkpoints=checkpoints)

    trains until done however often it is killed. While it trains, the first Ctrl-C waits until the block is trained and
    saved; then it is the KeyboardInterrupt it always was.

    The tables are copied, and written by a thread while training goes on. Where memory is too short for a copy,
    training waits until they are written.

    :param folder: is made, and belongs to one training at a time.
    :param every: as :meth:`Interval.parse` reads it; ``off`` saves nothing, not at the end either.
    :param resume: go on from the newest intact checkpoint, if there is one; otherwise those in the folder, of another
        training, are replaced.
    :param saved: what to go on from, if it has been found already.
    :param arguments: the command line, to be kept in the checkpoints.
    :param note: called with lines for the user.
    :raises EmbedtrainError: if the folder cannot be made, another process trains there, or no checkpoint is intact.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        every: str = EVERY,
        resume: bool = False,
        saved: Saved | None = None,
        arguments: Sequence[str] = (),
        note: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.folder = Path(folder)
        self.every = Interval.parse(every)
        self.saved = saved or (newest(self.folder, note) if resume else None)
        self.last: Path | None = None if self.saved is None else self.saved.path
        """The newest intact checkpoint of this training."""
        self._last_position = None if self.saved is None else self.saved.state.position
        self.signals = HeldSignals()
        self._note = note
        self._arguments = list(arguments)
        self._about: dict[str, Any] = {}
        self._intact = [] if self.saved is None else [self.saved.path]
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._cancelled = threading.Event()
        self._lock: int | None = None
        self._made: list[Path] = []
        self._saved_at, self._saved_position = time.monotonic(), 0
        if self.every:
            self._open()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(cancel=error is not None and not isinstance(error, Exception))

    def close(self, cancel: bool = False) -> None:
        """Wait until what is being written is written, unless it is to be given up; leave no empty folder."""
        if cancel:
            self._cancelled.set()
        if self._thread is not None:
            self._thread.join(timeout=1.0 if cancel else None)
            self._thread = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        with contextlib.suppress(OSError):  # not empty
            for folder in self._made:
                folder.rmdir()
        self._made = []

    def begin(self, options: Options, corpus: Mapping[str, Any], source: Mapping[str, Any] | None) -> State:
        """Say what is trained; return the state to start from."""
        self._about = {
            "format_version": FORMAT_VERSION,
            "options": options.to_dict(),
            "corpus": corpus,
            "source": source,
            "arguments": self._arguments,
            "versions": {"embedtrain": embedtrain.__version__},
        }
        state = State() if self.saved is None else replace(self.saved.state, reports=list(self.saved.state.reports))
        self._saved_at, self._saved_position = time.monotonic(), state.position
        return state

    def due(self, position: int) -> bool:
        """Say whether to save now.

        :raises EmbedtrainError: if the last checkpoint could not be written.
        """
        if self._failure is not None:
            self._wait()
        if self.signals.held is not None:
            return True
        if self._thread is not None and self._thread.is_alive():
            return False
        if self.every.tokens is not None:
            return position - self._saved_position >= self.every.tokens
        return self.every.seconds is not None and time.monotonic() - self._saved_at >= self.every.seconds

    def save(self, state: State, input: Tensor, output: Tensor) -> None:
        """Save in the background; if a signal was held back, at once, and then deliver it.

        :raises EmbedtrainError: if it cannot be written, or a table has NaN or infinity in it.
        """
        if self.signals.held is not None:
            self._note(f"{self.signals.held.name}: saving the training; once more stops at once")
            self._write_now(state, input, output)
            self.signals.deliver()
            return
        self._wait()
        self._saved_at, self._saved_position = time.monotonic(), state.position
        tables = _copies(input, output)
        if tables is None:
            self._write_now(state, input, output)
            return
        position, header = state.position, self._header(state, input)

        def work() -> None:
            try:
                self._write(position, header, tables)
            except BaseException as error:  # comes again in the thread that trains
                self._failure = error

        self._thread = threading.Thread(target=work, name="embedtrain-checkpoint", daemon=True)
        self._thread.start()

    def finish(self, state: State, input: Tensor, output: Tensor) -> None:
        """Save the end of the training. That it cannot be written is no reason to lose the result: it is said.

        :raises EmbedtrainError: if a table has NaN or infinity in it.
        """
        try:
            self._wait()
            if self._last_position != state.position:
                self._write_now(state, input, output)
        except Diverged:
            raise
        except EmbedtrainError as error:
            self._note(f"{error}; the result can be had all the same, but more epochs cannot start from its end")

    # -- writing

    def _write_now(self, state: State, input: Tensor, output: Tensor) -> None:
        self._wait()
        self._write(state.position, self._header(state, input), (input, output))
        self._saved_at, self._saved_position = time.monotonic(), state.position

    def _wait(self) -> None:
        """Wait for the thread that writes, and raise what it met."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _header(self, state: State, table: Tensor) -> bytes:
        rows, dim = table.shape
        size = 4 * rows * dim
        about = json.dumps({**self._about, "state": asdict(state)})
        places = {"input": (0, size), "output": (size, 2 * size)}
        header: dict[str, Any] = {"__metadata__": {"embedtrain": about}}
        header |= {
            name: {"dtype": "F32", "shape": [rows, dim], "data_offsets": place} for name, place in places.items()
        }
        end = 2 * size + _DIGEST_BYTES
        header["sha256"] = {"dtype": "U8", "shape": [_DIGEST_BYTES], "data_offsets": [2 * size, end]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    def _write(self, position: int, header: bytes, tables: tuple[Tensor, Tensor]) -> None:
        """Write, sync and rename a checkpoint, then delete those that are too many."""
        path = self.folder / f"{max(numbers(self.folder), default=0) + 1:06d}.safetensors"
        temporary = path.with_name(path.name + _PARTIAL)
        try:
            with explained(f"checkpoint {path}"):
                with temporary.open("wb") as file:
                    file.write(header)
                    digest = hashlib.sha256(header)
                    for name, table in zip(("input", "output"), tables, strict=True):
                        for data in self._data(name, table):
                            digest.update(data)
                            file.write(data)
                    file.write(digest.digest())
                    file.flush()
                    os.fsync(file.fileno())
                temporary.rename(path)
                sync(self.folder)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        self.last, self._last_position = path, position
        self._intact.append(path)
        del self._intact[:-_KEPT]
        for other in numbers(self.folder).values():
            if other not in self._intact:
                with contextlib.suppress(OSError):
                    other.unlink()

    def _data(self, name: str, table: Tensor) -> Iterator[memoryview]:
        first = 0
        for rows in _chunks(table):
            if self._cancelled.is_set():
                raise _Cancelled
            rows = rows.cpu().contiguous()
            require_finite(name, rows, self._about["options"], first)
            first += len(rows)
            yield rows.numpy().data.cast("B")

    # -- the folder

    def _open(self) -> None:
        with explained(f"checkpoints to {self.folder}"):
            missing = [folder for folder in (self.folder, *self.folder.absolute().parents) if not folder.exists()]
            for folder in reversed(missing):
                folder.mkdir(exist_ok=True)
                self._made.insert(0, folder)
                sync(folder.parent)
            self._lock = lock_checkpoints(self.folder)
            for path in self.folder.glob(f"*{_PARTIAL}"):
                if is_own(path.name):
                    path.unlink()
