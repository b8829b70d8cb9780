"""``python -m embedtrain``: a diagnosis of this installation."""

from __future__ import annotations

import importlib.metadata
import platform
import sys

import embedtrain
from embedtrain.device import gpu_problem, version
from embedtrain.errors import EmbedtrainError


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return f"{names[0]}, {len(names)} cores" if names else platform.processor() or platform.machine()


def _torch_version() -> str:
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return "not installed; pip install torch"


def main() -> int:
    """Print what is here and what is missing; return 2 if the native core cannot be used."""
    lines = {
        "embedtrain": embedtrain.__version__,
        "python": f"{platform.python_version()} on {platform.platform()}",
        "torch": _torch_version(),
        "processor": _processor(),
    }
    code = 0
    try:
        from embedtrain.native import core

        available = core.available_kernels()
        lines["kernel"] = f"{core.kernel_name()} (of {', '.join(available)})"
        if available[0] == "portable":
            lines["kernel"] += "; this processor has no AVX2, so training is several times slower than it could be"
        lines["cuda toolkit"] = core.cuda_toolkit or "none: built without"
        if core.cuda_toolkit is not None:
            report = core.cuda_report()
            lines["cuda driver"] = version(report["driver"]) if report["driver"] else "none"
            for number, (name, major, minor, size) in enumerate(report["devices"]):
                lines[f"cuda:{number}"] = f"{name}, sm_{major}{minor}, {size / 2**30:.0f} GiB"
        lines["cuda"] = gpu_problem("cuda") or "ready"
    except (EmbedtrainError, RuntimeError) as error:
        lines["native core"] = str(error)
        code = 2
    for name, value in lines.items():
        print(f"{name:13} {value}")
    return code


if __name__ == "__main__":
    sys.exit(main())
