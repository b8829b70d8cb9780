"""One of several ranks under torchrun: how they meet, and how all of them end when one fails.

torchrun starts the processes and tells each in the environment who it is; torch.distributed carries what they
exchange, by gloo in the memory of the CPU and by NCCL in that of GPUs. What is added here is that a failure of one ends
all, soon, with one message that says which rank it was and why:

- Each rank has a thread that signs on to torchrun's key-value store every second. Rank 0 sees who is silent; the
  others see whether rank 0 and the store are there.
- A rank that fails writes down why, the first one wins and prints it, the others end without a word.
- No rank waits in a place where it could not hear of that: collectives are polled.

Without torchrun, or with one rank, nothing here is used.
"""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from embedtrain.errors import EmbedtrainError

if TYPE_CHECKING:
    import torch
    from torch.distributed import Work
    from torch.distributed.distributed_c10d import Store

LOST_AFTER = 15.0
"""Seconds without a sign after which a rank, or the store, counts as lost."""
_BEAT = 1.0
# Seconds to find out why a connection broke: the failed rank may be writing it down, or be silent from now on.
_INQUIRY = 4.0
# Seconds for all connections between ranks to be made.
_CONNECT = 120.0
_BROADCAST = 1 << 22  # numbers at once
_DONE = b"done"  # in the place of a sign of life

T = TypeVar("T")

_joined: Ranks | None = None


class OtherRankFailedError(EmbedtrainError):
    """Another rank has failed, and says so itself.

    :param code: the exit code of all ranks.
    """

    told = True

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class DisagreementError(EmbedtrainError):
    """The ranks were not told the same. All of them find out."""


class LostRankError(EmbedtrainError):
    """A rank, or the way to it, has gone. There is nothing wrong with the input.

    :param known: whether the other ranks have been told.
    """

    code = 1

    def __init__(self, message: str, *, known: bool = False) -> None:
        super().__init__(message)
        self.known = known


def world_size() -> int:
    """Return the number of ranks that torchrun has started; 1 without it."""
    return _environment("WORLD_SIZE", 1) if "RANK" in os.environ else 1


def rank() -> int:
    """Return which of the ranks this process is; 0 without torchrun."""
    return _environment("RANK", 0) if world_size() > 1 else 0


def local_size() -> int:
    """Return how many ranks torchrun has started on this machine."""
    return _environment("LOCAL_WORLD_SIZE", 1) if world_size() > 1 else 1


def local_rank() -> int:
    """Return which of the ranks on this machine this is."""
    return _environment("LOCAL_RANK", 0) if world_size() > 1 else 0


def restarted() -> bool:
    """Say whether torchrun has started the ranks again after a failure (``--max-restarts``)."""
    return world_size() > 1 and _environment("TORCHELASTIC_RESTART_COUNT", 0) > 0


def _environment(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise EmbedtrainError(f"the environment says {name}={text!r}, which is no number; start the ranks by torchrun")
    return int(text)


class Ranks:
    """All ranks, as this one sees them. Made by :func:`join`."""

    def __init__(self, cuda: bool) -> None:
        import torch.distributed as dist
        from torch.distributed.distributed_c10d import PrefixStore
        from torch.distributed.rendezvous import rendezvous

        self.rank, self.size = rank(), world_size()
        self.local_rank, self.local_size = local_rank(), local_size()
        self._dist = dist
        self._meetings = 0
        try:
            # Two clients, because a call may block. Under torchrun its agent keeps the store.
            store, own_store = (next(rendezvous("env://", timeout=timedelta(seconds=_CONNECT)))[0] for _ in range(2))
        except (RuntimeError, ValueError, OSError) as error:
            raise LostRankError(
                f"rank {self.rank}: cannot reach the store of torchrun at {_address()}: {_first_line(error)}"
            ) from error
        # The store lives on when torchrun starts the ranks again.
        attempt = f"embedtrain/{_environment('TORCHELASTIC_RESTART_COUNT', 0)}"
        store, own_store = PrefixStore(f"{attempt}/group", store), PrefixStore(attempt, own_store)
        self._watch = _Watch(own_store, self.rank, self.size)
        self._watch.start()
        self.meet()
        self._owns_group = not dist.is_initialized()
        if self._owns_group:
            backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
            connect = lambda: dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.size)  # noqa: E731
            try:
                self._beside(connect, _CONNECT)
            except (RuntimeError, TimeoutError) as error:
                raise LostRankError(
                    f"the ranks cannot connect to each other: {_first_line(error)}; GLOO_SOCKET_IFNAME "
                    "(NCCL_SOCKET_IFNAME) chooses the network interface"
                ) from error

    # ---- waiting

    def check(self) -> None:
        """Raise if another rank has failed. To be called now and then in long work.

        :raises OtherRankFailedError: saying which and why.
        """
        if self._watch.failure is not None:
            raise self._watch.failure

    def _wait(self, done: Callable[[], bool], limit: float | None = None) -> None:
        """Wait until something is done, or a rank fails.

        Time is counted in naps, not by the clock: a machine that was stopped for a while has lost nobody.
        """
        nap, waited, silent, ticks = 20e-6, 0.0, 0.0, self._watch.ticks
        while not done():
            self.check()
            time.sleep(nap)
            waited += nap
            silent = silent + nap if ticks == self._watch.ticks else 0.0
            ticks = self._watch.ticks
            if silent > LOST_AFTER:
                raise LostRankError(
                    f"rank {self.rank} ({socket.gethostname()}) cannot reach the store of torchrun at {_address()}: "
                    "the link, or the machine of rank 0, is down"
                )
            if limit is not None and waited > limit:
                raise TimeoutError(f"not within {limit:.0f} s")
            nap = min(2 * nap, 0.02)

    def _beside(self, call: Callable[[], T], limit: float | None = None) -> T:
        """Return what a call returns that blocks, watching for failures meanwhile."""
        outcome: list[T] = []
        error: list[BaseException] = []

        def run() -> None:
            try:
                outcome.append(call())
            except BaseException as caught:
                error.append(caught)

        thread = threading.Thread(target=run, name="embedtrain-collective", daemon=True)
        thread.start()
        self._wait(lambda: not thread.is_alive(), limit)
        if error:
            raise error[0]
        return outcome[0]

    def meet(self) -> None:
        """Wait for all ranks to come here, however long they take."""
        self._meetings += 1
        key = f"meeting/{self._meetings}"
        self._watch.ask(lambda store: store.add(key, 1))
        answers: list[int] = []
        pause = 0.002
        while not answers or answers[-1] < self.size:
            asked = self._watch.ask(lambda store: answers.append(store.add(key, 0)))
            self._wait(asked.is_set)
            if answers and answers[-1] < self.size:
                until = time.monotonic() + pause
                self._wait(lambda until=until: time.monotonic() > until)  # type: ignore[misc]
                pause = min(1.5 * pause, 0.5)

    # ---- collectives: all ranks call the same ones in the same order

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks, in order."""
        values: list[Any] = [None] * self.size
        self._beside(lambda: self._dist.all_gather_object(values, value))
        return values

    def from_first(self, value: T | None) -> T:
        """Return the value of rank 0."""
        first: T | None = self.gather(value if self.rank == 0 else None)[0]
        assert first is not None
        return first

    def all_to_all(self, parts: list[torch.Tensor]) -> list[torch.Tensor]:
        """Give a part to each rank, one-dimensional and of any length; return the parts that were given to this one."""
        import torch

        sizes = self.gather([part.numel() for part in parts])
        given = [part.numel() for part in parts]
        taken = [each[self.rank] for each in sizes]
        result = torch.empty(sum(taken), dtype=parts[0].dtype)
        joined = torch.cat(parts)
        self._beside(lambda: self._dist.all_to_all_single(result, joined, taken, given))
        return list(torch.split(result, taken))

    def broadcast(self, tensor: torch.Tensor) -> None:
        """Overwrite a matrix with that of rank 0."""
        import torch

        for rows in torch.split(tensor, max(1, _BROADCAST // tensor.shape[1])):
            copy = rows.clone()  # is contiguous
            self._beside(partial(self._dist.broadcast, copy, 0))
            rows.copy_(copy)

    def start_sum(self, values: torch.Tensor) -> Sum:
        """Start to sum tensors of all ranks, in place."""
        return Sum(self, self._dist.all_reduce(values, async_op=True), values.is_cuda)

    def agree(self, facts: dict[str, Any]) -> None:
        """Refuse to work with ranks that were told something else.

        :param facts: what has to be the same, by the name that the user knows.
        :raises EmbedtrainError: on all ranks, naming the first that differs from rank 0, and in what.
        """
        first, *others = self.gather((socket.gethostname(), facts))
        for number, (host, theirs) in enumerate(others, start=1):
            changed = [
                f"{name} {theirs.get(name)} instead of {value}"
                for name, value in first[1].items()
                if theirs.get(name) != value
            ]
            if changed:
                what = f"rank {number} ({host}) has {'; '.join(changed)}, unlike rank 0 ({first[0]})"
                raise DisagreementError(f"{what}; start all with the same")

    # ---- the end

    def leave(self) -> None:
        """Sign off, after all has gone well on all ranks."""
        self.meet()
        with _quietly():  # all have done all
            if self._owns_group:
                self._beside(self._dist.destroy_process_group)
        self.linger()

    def linger(self) -> None:
        """Sign off. Rank 0 may have the store, so it stays until the others know how it ended, but not long."""
        self._watch.close()
        if self.rank == 0:
            self._watch.see_off()

    def explain(self, error: BaseException) -> EmbedtrainError | None:
        """Find out what is behind an error of this rank, and make it known.

        :return: what to raise in its place; None: the error itself.
        """
        if isinstance(error, OtherRankFailedError) or (isinstance(error, LostRankError) and error.known):
            return None
        if isinstance(error, KeyboardInterrupt):  # all have received the signal
            return None if self.rank == 0 else OtherRankFailedError("interrupted", 130)
        me = f"rank {self.rank} ({socket.gethostname()})"
        code, message = 1, f"{me}: {type(error).__name__}: {_first_line(error)}"
        if isinstance(error, LostRankError):
            message = str(error)
        elif isinstance(error, EmbedtrainError):
            code, message = 2, str(error) if isinstance(error, DisagreementError) else f"{me}: {error}"
        elif isinstance(error, SystemExit) and error.code != 128 + signal.SIGTERM:
            return None
        elif isinstance(error, MemoryError) or "can't allocate memory" in str(error):  # as torch says it
            code, message = 2, f"{me}: out of memory; lower --dim or --max-vocab, or raise --min-count"
        elif isinstance(error, (RuntimeError, SystemExit)):
            # A connection broke; or torchrun ends this rank, because of another one.
            lost = self._watch.inquire()
            if lost:
                message = f"{' and '.join(lost)} ended without a word: killed, or out of memory (see dmesg)"
            elif isinstance(error, SystemExit) and self._watch.failure is None:
                return None
        failure = self._watch.failure or self._watch.claim(self.rank, code, message)
        if failure is not None:
            return failure
        return EmbedtrainError(message) if code == 2 else LostRankError(message, known=True)


class Sum:
    """A sum over ranks that is under way."""

    def __init__(self, ranks: Ranks, work: Work, cuda: bool) -> None:
        self._ranks, self._work, self._cuda = ranks, work, cuda

    def wait(self) -> None:
        """Return when it is there. On a GPU the current stream waits, not the caller."""
        if not self._cuda:
            self._ranks._wait(self._work.is_completed)
        self._work.wait()


class _Watch(threading.Thread):
    """The thread that signs on, and looks after the others. All that it knows is in the store."""

    def __init__(self, store: Store, rank: int, size: int) -> None:
        super().__init__(name="embedtrain-watch", daemon=True)
        self.failure: OtherRankFailedError | LostRankError | None = None
        self.ticks = 0
        self._store, self._rank, self._size = store, rank, size
        self._others = [each for each in range(size) if each != rank] if rank == 0 else [0]
        self._seen: dict[int, bytes] = {}
        self._silent: dict[int, int] = {}
        self._requests: SimpleQueue[tuple[Callable[[Store], object], threading.Event] | None] = SimpleQueue()
        self._met = False

    def ask(self, request: Callable[[Store], object]) -> threading.Event:
        """Let the thread do something with the store; the event says when it has."""
        done = threading.Event()
        self._requests.put((request, done))
        return done

    def close(self) -> None:
        self._requests.put(None)
        self.join(_BEAT)

    def see_off(self) -> None:
        """Wait until all others have signed off, but not long."""
        keys = [f"beat/{each}" for each in range(1, self._size)]
        until = time.monotonic() + _INQUIRY
        with _quietly():
            while not self.is_alive() and time.monotonic() < until:
                if set(self._store.multi_get(keys)) == {_DONE}:
                    return
                time.sleep(0.1)

    def run(self) -> None:
        due = time.monotonic()
        while True:
            try:
                request = self._requests.get(timeout=max(due - time.monotonic(), 0.0))
            except Empty:
                due = time.monotonic() + _BEAT
                request = (self._tick, threading.Event())
            if request is None:
                with _quietly():
                    self._store.set(f"beat/{self._rank}", _DONE.decode())
                return
            with _quietly():  # who waits for an answer sees that the ticks stop
                request[0](self._store)
                request[1].set()

    def _tick(self, store: Store) -> None:
        store.set(f"beat/{self._rank}", f"{self.ticks} {socket.gethostname()}")
        if self.failure is None and store.check(["failure"]):
            self.failure = _read_failure(store.get("failure"))
        if not self._met:
            self._met = store.check([f"beat/{each}" for each in self._others])
        elif self.failure is None:
            self._look_after(store)
        self.ticks += 1

    def _look_after(self, store: Store) -> None:
        for other, beat in zip(self._others, store.multi_get([f"beat/{each}" for each in self._others]), strict=True):
            silent = beat == self._seen.get(other) and beat != _DONE
            self._silent[other] = self._silent.get(other, 0) + 1 if silent else 0
            self._seen[other] = beat
        lost = [other for other, ticks in self._silent.items() if ticks * _BEAT >= LOST_AFTER]
        if lost:
            names = " and ".join(f"rank {other} ({_host(self._seen[other])})" for other in lost)
            message = f"nothing was heard of {names} for {LOST_AFTER:.0f} s: the machine, or the link to it, is down"
            other_failure = self._claim(store, self._rank, 1, message)
            self.failure = other_failure or LostRankError(message, known=True)

    @staticmethod
    def _claim(store: Store, rank: int, code: int, message: str) -> OtherRankFailedError | None:
        mine = json.dumps({"rank": rank, "code": code, "message": message}).encode()
        first = store.compare_set("failure", "", mine.decode())
        return None if first == mine else _read_failure(first)

    def claim(self, rank: int, code: int, message: str) -> OtherRankFailedError | None:
        """Write down why all have to end; return what another rank has written before, if one has."""
        found: list[OtherRankFailedError | None] = []
        self.ask(lambda store: found.append(self._claim(store, rank, code, message))).wait(_INQUIRY)
        if found:
            return found[0]
        # The store is out of reach, and with it the others: one rank of each machine says so.
        speaks = local_rank() == 0 or (rank == 1 and local_rank() == 1)
        return None if speaks else OtherRankFailedError(message, code)

    def inquire(self) -> list[str]:
        """Wait for what a failed rank writes down. If none does, return the names of those that have gone silent."""
        others = [each for each in range(self._size) if each != self._rank]
        keys = [f"beat/{each}" for each in others]
        beats: list[list[bytes]] = []
        self.ask(lambda store: beats.append(store.multi_get(keys)))
        until = time.monotonic() + _INQUIRY
        while time.monotonic() < until and self.failure is None:
            time.sleep(0.05)
        self.ask(lambda store: beats.append(store.multi_get(keys))).wait(_BEAT)
        if self.failure is not None:
            return []
        if len(beats) < 2:
            return [f"rank 0, or the store of torchrun at {_address()},"]
        return [
            f"rank {other} ({_host(then)})"
            for other, then, now in zip(others, *beats, strict=True)
            if then == now and now != _DONE
        ]


@contextmanager
def join(cuda: bool) -> Iterator[Ranks | None]:
    """Meet the other ranks, and see to it that all end together. None if there is only one.

    Within such a context another one is the same.

    :param cuda: whether this one trains on a GPU.
    :raises OtherRankFailedError: if another rank has failed.
    :raises EmbedtrainError: what is wrong with this one; the others know of it then.
    """
    global _joined
    if world_size() == 1 or _joined is not None:
        yield _joined
        return
    _joined = ranks = Ranks(cuda)
    try:
        yield ranks
        ranks.leave()
        _joined = None
    except BaseException as error:
        if threading.current_thread() is threading.main_thread():
            # torchrun ends all ranks when it sees that one has gone; but it takes a few seconds to know which.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        explained = ranks.explain(error)
        if explained is None:
            raise
        raise explained from error


def end(code: object) -> None:
    """End the process here if it is cut off from other ranks: threads that wait for them in torch would abort it."""
    if _joined is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        _joined.linger()
        os._exit(code if isinstance(code, int) else 1)


@contextmanager
def first_alone() -> Iterator[None]:
    """Let rank 0 alone say what all ranks find wrong in what they were all told; another one only if it lives on."""
    if rank() == 0:
        yield
        return
    said = io.StringIO()
    try:
        with redirect_stderr(said), redirect_stdout(said):
            yield
    except BaseException:
        time.sleep(_INQUIRY)  # rank 0 has failed as well, and torchrun ends this one
        print(said.getvalue(), end="", file=sys.stderr)
        raise


@contextmanager
def _quietly() -> Iterator[None]:
    try:
        yield
    except Exception:  # the store has gone: RuntimeError, or one of torch's own
        time.sleep(0.2)


def _read_failure(text: bytes) -> OtherRankFailedError:
    failure = json.loads(text)
    return OtherRankFailedError(failure["message"], failure["code"])


def _address() -> str:
    return f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"


def _host(beat: bytes) -> str:
    return beat.decode().partition(" ")[2]


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
