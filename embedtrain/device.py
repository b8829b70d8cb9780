"""Which device to train on, and why not on another."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

from embedtrain.distributed import local_rank, local_size
from embedtrain.errors import EmbedtrainError

# What the CUDA kernels are compiled for: sm_80 (Ampere) and newer.
OLDEST_GPU = (8, 0)
# Noise words per centre that the CUDA kernels can draw.
MAX_CUDA_NEGATIVE = 64


def cuda_problem() -> str | None:
    """Say which of toolkit, driver and device is missing for CUDA, and what to do; None if all are there."""
    from embedtrain.native import core

    if core.cuda_toolkit is None:
        return (
            "this build of embedtrain has no CUDA in it, because no CUDA toolkit (nvcc) was found when it was "
            "installed; install the toolkit, put nvcc on PATH, and install embedtrain again"
        )
    report: dict[str, Any] = core.cuda_report()
    if report["driver"] == 0:
        return "there is no NVIDIA driver on this machine; install it (nvidia-smi must list the GPU)"
    if report["driver"] < report["runtime"]:
        return (
            f"the NVIDIA driver is too old: it knows CUDA {version(report['driver'])}, embedtrain was built with "
            f"{version(report['runtime'])}; update the driver"
        )
    if not report["devices"]:
        why = report["error"] or "none is there"
        return f"the NVIDIA driver sees no GPU ({why}); check nvidia-smi and CUDA_VISIBLE_DEVICES"
    return None


def version(number: int) -> str:
    """Spell a CUDA version number, 13000, as 13.0."""
    return f"{number // 1000}.{number % 1000 // 10}"


def gpu_problem(device: str, negative: int = 1) -> str | None:
    """Say why a GPU (cuda or cuda:N) cannot train with K noise words, and what to do; None if it can."""
    from embedtrain.native import core

    problem = cuda_problem()
    if problem is not None:
        return problem
    devices = core.cuda_report()["devices"]
    number = _number(device)
    if number >= len(devices):
        there = "only cuda:0" if len(devices) == 1 else f"cuda:0 to cuda:{len(devices) - 1}"
        return f"there is no such GPU: this process sees {there}; check nvidia-smi and CUDA_VISIBLE_DEVICES"
    name, major, minor, _ = devices[number]
    if (major, minor) < OLDEST_GPU:
        return f"{name} is too old: embedtrain needs compute capability 8.0 (Ampere), it has {major}.{minor}"
    if negative > MAX_CUDA_NEGATIVE:
        return f"on a GPU, negative must be at most {MAX_CUDA_NEGATIVE}, not {negative}; lower it"
    import torch  # not before here: it takes a second

    if not torch.cuda.is_available():
        return (
            f"the installed torch {torch.__version__} cannot use the GPU; install a build of it with CUDA "
            "(https://pytorch.org/get-started)"
        )
    return None


def _number(device: str) -> int:
    return int(device.partition(":")[2] or 0)


def describe(device: str) -> str:
    """Name the hardware behind a resolved device: the instruction set of the CPU's kernel, or the GPU."""
    from embedtrain.native import core

    if device == "cpu":
        return str(core.kernel_name())
    return f"{device}, {core.cuda_report()['devices'][_number(device)][0]}"


def machine() -> str:
    """Name the processor of this machine, its cores and architecture, as far as they are known."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except (OSError, ValueError):
        found = None
    name = found[1].strip() if found else platform.processor()
    cores = os.cpu_count() or 1
    return ", ".join(filter(None, (name, f"{cores} core{'s' if cores > 1 else ''}", platform.machine())))


def resolve(device: str, negative: int = 1) -> str:
    """Turn the option (auto, cpu, cuda, cuda:N) into the device to train on: cpu or cuda:N.

    ``auto`` is the first GPU if there is one that can train with these K noise words, else the CPU. Under torchrun
    each of a machine's ranks has a GPU of its own.

    :raises EmbedtrainError: if CUDA is asked for and cannot be had, or EMBEDTRAIN_ISA names a kernel that cannot.
    """
    if device in ("auto", "cuda") and local_size() > 1:
        own = f"cuda:{local_rank()}"
        if device == "cuda" or not gpu_problem("cuda", negative):
            device = own
    if local_size() > 1 and device.startswith("cuda:") and _number(device) != local_rank():
        raise EmbedtrainError(f"device {device}: each rank takes a GPU of its own; pass --device cuda")
    if device == "auto":
        device = "cpu" if gpu_problem("cuda", negative) else "cuda"
    if not device.startswith("cuda"):
        from embedtrain.native import core

        try:
            core.kernel_name()
        except RuntimeError as error:
            raise EmbedtrainError(str(error)) from error
        return "cpu"
    problem = gpu_problem(device, negative)
    if problem is not None:
        raise EmbedtrainError(f"device {device}: {problem}; or train with --device cpu")
    return f"cuda:{_number(device)}"
