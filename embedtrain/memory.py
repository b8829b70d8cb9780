"""How much memory this process may still take."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def available_memory() -> int | None:
    """Return the bytes of memory that are free, or could be freed, for this process; None where nobody says (no Linux).

    The least of what the machine has, what the control group (a container, a batch job) may have, and what the limits
    of the process (``ulimit -v``, ``ulimit -d``) leave it.
    """
    limits = [
        _machine(),
        *_groups(),
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


def _groups() -> Iterator[int | None]:
    """Yield what each control group of this process, and those around them, leave it: of version 2, or of version 1."""
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, names = _CGROUPS, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root, names = _CGROUPS / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = root / path.lstrip("/")
        # A container may see its group as the root, under the name that it has outside.
        yield from (_group(each, *names) for each in (group, *group.parents) if each.is_relative_to(root))


def _group(group: Path, limit_name: str, used_name: str, freeable_name: str) -> int | None:
    limit, used = _read(group / limit_name).strip(), _read(group / used_name).strip()
    if not limit.isdecimal() or not used.isdecimal():  # "max", or there is no such file
        return None
    return max(0, int(limit) - int(used) + (_field(group / "memory.stat", freeable_name) or 0))


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
