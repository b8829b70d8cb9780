"""How much memory this process may still take."""

from __future__ import annotations

import resource
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def available_memory() -> int | None:
    """Return the bytes of memory that are free, or could be freed, for this process; None where nobody says (no Linux).

    The least of what the machine has, what the control group (a container, a batch job) may have, and what the limits
    of the process (``ulimit -v``, ``ulimit -d``) leave it.
    """
    limits = [
        _machine(),
        *map(_group, _groups()),
        _limit(resource.RLIMIT_AS, "VmSize:"),
        _limit(resource.RLIMIT_DATA, "VmData:"),
    ]
    return min((limit for limit in limits if limit is not None), default=None)


def _machine() -> int | None:
    return 1024 * size if (size := _field(Path("/proc/meminfo"), "MemAvailable:")) is not None else None


def _limit(which: int, used: str) -> int | None:
    soft, _ = resource.getrlimit(which)
    if soft == resource.RLIM_INFINITY:
        return None
    return max(0, soft - 1024 * (_field(Path("/proc/self/status"), used) or 0))


def _groups() -> list[Path]:
    """Return the control group of this process (version 2) and those around it."""
    lines = _read(Path("/proc/self/cgroup")).splitlines()
    path = next((line[3:] for line in lines if line.startswith("0::")), "/")
    inner = _CGROUPS / path.lstrip("/")
    return [group for group in (inner, *inner.parents) if group.is_relative_to(_CGROUPS)]


def _group(group: Path) -> int | None:
    limit, used = _read(group / "memory.max").strip(), _read(group / "memory.current").strip()
    if not limit.isdecimal() or not used.isdecimal():  # "max", or there is no such file
        return None
    return max(0, int(limit) - int(used) + (_field(group / "memory.stat", "inactive_file") or 0))


def _field(path: Path, name: str) -> int | None:
    for line in _read(path).splitlines():
        words = line.split()
        if words[:1] == [name]:
            return int(words[1])
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
