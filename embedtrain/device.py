"""Which device to train on, and why not on another."""

from __future__ import annotations

from typing import Any

from embedtrain.errors import EmbedtrainError


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


def resolve(device: str) -> str:
    """Turn the option (auto, cpu, cuda, cuda:N) into the device to train on.

    :raises EmbedtrainError: if CUDA is asked for and cannot be had, or EMBEDTRAIN_ISA names a kernel that cannot.
    """
    if not device.startswith("cuda"):
        from embedtrain.native import core

        try:
            core.kernel_name()
        except RuntimeError as error:
            raise EmbedtrainError(str(error)) from error
        return "cpu"
    problem = cuda_problem() or "this version of embedtrain finds GPUs but does not train on them yet"
    raise EmbedtrainError(f"device {device}: {problem}; or train with --device cpu")
