"""The CUDA kernels, compiled for the host (tests/cuda/emulation.h), with the functions that the native core has.

Built once per version of the sources, in a few seconds, into build/. ``EMBEDTRAIN_SANITIZE`` chooses sanitizers, as for
the native core.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted([*ROOT.glob("csrc/cuda/*"), *ROOT.glob("csrc/sampling/*.h"), *ROOT.glob("tests/cuda/*")])
FLAGS = [
    "-std=c++17",
    "-O2",
    "-g",
    "-fPIC",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unknown-pragmas",
    "-ffp-contract=fast",
]
FLAGS += ["-DEMBEDTRAIN_EMULATE", f"-I{ROOT}/csrc", f"-I{ROOT}/tests/cuda"]


class CudaBlock(ctypes.Structure):
    """As in csrc/cuda/sgns.h."""

    _fields_ = (
        ("input", ctypes.c_void_p), ("output", ctypes.c_void_p), ("stride", ctypes.c_int64), ("dim", ctypes.c_int),
        ("ids", ctypes.c_void_p), ("tokens", ctypes.c_int64), ("offsets", ctypes.c_void_p),
        ("sentences", ctypes.c_int64), ("first_position", ctypes.c_int64),
        ("keep", ctypes.c_void_p), ("noise", ctypes.c_void_p),
        ("vocabulary", ctypes.c_int64), ("seed", ctypes.c_uint64), ("epoch", ctypes.c_uint32),
        ("window", ctypes.c_int), ("negative", ctypes.c_int), ("noise_sharers", ctypes.c_int),
        ("shrink_window", ctypes.c_bool),
        ("alpha", ctypes.c_double), ("alpha_step", ctypes.c_double), ("min_alpha", ctypes.c_double),
        ("corpus_size", ctypes.c_int64), ("begin", ctypes.c_int64), ("end", ctypes.c_int64),
        ("input_damping", ctypes.c_void_p), ("output_damping", ctypes.c_void_p), ("stats", ctypes.c_void_p),
    )  # fmt: skip


def compile_sources(main: str, flags: list[str], suffix: str) -> Path:
    """Compile a file of tests/cuda, unless that was done before, and return the result."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or "g++"
    command = [compiler, *FLAGS, *flags, str(ROOT / "tests" / "cuda" / main)]
    content = b"".join(path.read_bytes() for path in SOURCES)
    key = hashlib.sha256(content + repr(command).encode()).hexdigest()[:16]
    result = ROOT / "build" / "emulated" / f"{Path(main).stem}-{key}{suffix}"
    if not result.exists():
        result.parent.mkdir(parents=True, exist_ok=True)
        temporary = result.with_suffix(f".{os.getpid()}")
        subprocess.run([*command, "-o", str(temporary)], check=True)
        temporary.replace(result)
    return result


@functools.cache
def _library() -> ctypes.CDLL:
    sanitize = os.environ.get("EMBEDTRAIN_SANITIZE")
    flags = [f"-fsanitize={sanitize}", "-fno-sanitize-recover=all"] if sanitize else []
    library = ctypes.CDLL(str(compile_sources("emulated.cpp", ["-shared", *flags], ".so")))
    library.emulated_error.restype = ctypes.c_char_p
    assert library.emulated_block_bytes() == ctypes.sizeof(CudaBlock)
    return library


def _call(name: str, *arguments: Any) -> None:
    if getattr(_library(), name)(*arguments):
        message = _library().emulated_error().decode()
        raise ValueError(message)


@contextmanager
def running(*, host_threads: int = 1, resident: int = 1, order: int = 0):
    """Choose how kernels run: how many blocks at once, on how many threads, and the order of a block's threads."""
    _library().emulated_configure(host_threads, resident, order)
    yield
    _library().emulated_configure(1, 1, 0)


# ---- as in the native core


def cuda_workspace_bytes(**block: Any) -> int:
    size = ctypes.c_size_t()
    _call("emulated_workspace_bytes", ctypes.byref(CudaBlock(**block)), ctypes.byref(size))
    return size.value


def cuda_default_workers(dim: int, window: int, negative: int, device: int) -> int:
    workers = ctypes.c_int()
    _call("emulated_default_workers", dim, window, negative, ctypes.byref(workers))
    return workers.value


def cuda_train_block(workers: int, workspace: int, device: int, stream: int, **block: Any) -> None:
    _call("emulated_train_block", ctypes.byref(CudaBlock(**block)), workers, ctypes.c_void_p(workspace))


def cuda_initial_weights(
    table: int, first_row: int, rows: int, dim: int, stride: int, seed: int, device: int, stream: int
) -> None:
    _call(
        "emulated_initial_weights", ctypes.c_void_p(table), ctypes.c_int64(first_row), ctypes.c_int64(rows), dim,
        ctypes.c_int64(stride), ctypes.c_uint64(seed),
    )  # fmt: skip


# ---- for tests alone


def find_windows(**block: Any) -> tuple[np.ndarray, np.ndarray, int]:
    """Return centres, int32 (n, 4) of at, word, left, right; the words they point into; and the margin."""
    workspace = np.full(cuda_workspace_bytes(**block) + 16, 0xFF, dtype=np.uint8)
    start = -workspace.ctypes.data % 16
    where, margin = (ctypes.c_void_p * 3)(), ctypes.c_int()
    at = ctypes.c_void_p(workspace.ctypes.data + start)
    _call("emulated_find_windows", ctypes.byref(CudaBlock(**block)), at, where, ctypes.byref(margin))

    def view(address: int | None, count: int) -> np.ndarray:
        at = (address or 0) - workspace.ctypes.data
        return workspace[at : at + 4 * count].view(np.int32)

    kept, left, right, invalid = view(where[0], 4).tolist()
    assert not invalid
    words = view(where[2], margin.value + kept + right).copy()
    words[: margin.value - left] = -1
    return view(where[1], 4 * kept).reshape(kept, 4).copy(), words, margin.value
