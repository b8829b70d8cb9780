"""Puts arrays on disk: those that do not fit into memory, and those that are to be used again.

An entry is a folder, ``<root>/<first half of the key's SHA-256>``, that is there complete or not at all:

============== =======================================================================================================
``NAME.bin``   an array, as the bytes are in memory, to be mapped
``NAME.json``  a value
``meta.json``  format, key, facts, and of each file: size, dtype, times; of the small ones the SHA-256; and its own
============== =======================================================================================================

What is checked when an entry is used: ``meta.json`` by its SHA-256, the key, the size of every file, the SHA-256 of
every small file; and that modification time and inode of the large ones are those they were written with. Files that
were copied have others: then the caller is asked whether their content is right. An entry that fails is said, removed
and made again. What nothing notices is a disk that gives back other bytes than were written.

An entry is made in a folder ``….partial-…`` beside it, whose maker holds a lock on it; such folders without a lock were
left by a process that was killed, and are removed by the next one that makes an entry.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from embedtrain.files import explained, make_partial, remove_partials, sync

_FORMAT = "embedtrain encoded corpus"
_VERSION = 1
_META = "meta.json"
_NAME = "[0-9a-f]{32}"

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Entry:
    """What is kept."""

    arrays: dict[str, Array]
    """Of one dimension. From disk they are mapped, and cannot be written to."""
    values: dict[str, Any]
    """JSON values of any size."""
    facts: dict[str, Any]
    """Small JSON values."""


def default_root() -> Path:
    """Return the folder for entries, by the XDG base directory specification."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path("~/.cache").expanduser()) / "embedtrain"


class Cache:
    """The place on disk for one entry.

    :param root: the folder for all entries; made when something is written.
    :param key: what the entry depends on, JSON values. None: it is for this process only and removed afterwards.
    :param note: called with what the user should know.
    """

    def __init__(self, root: Path, key: Mapping[str, Any] | None, note: Callable[[str], None]) -> None:
        self.root = root
        self._key = None if key is None else {**key, "byteorder": sys.byteorder, "version": _VERSION}
        self._name = hashlib.sha256(_json(self._key)).hexdigest()[:32] if key is not None else secrets.token_hex(16)
        self._note = note
        self._partial: Path | None = None
        self._lock: int | None = None

    def __enter__(self) -> Cache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove what is not kept. Arrays that are mapped stay as long as they are used."""
        if self._partial is not None:
            shutil.rmtree(self._partial, ignore_errors=True)
        self._unlock()

    def find(self, is_right: Callable[[Entry], bool]) -> Entry | None:
        """Return the entry of this key; None if there is none, or none that can be trusted.

        :param is_right: called with an entry whose large arrays may not be those that were written.
        """
        folder = self.root / self._name
        if self._key is None or not folder.exists():
            return None
        try:
            entry, sure = self._read(folder)
            if not sure and not is_right(entry):
                raise ValueError("the arrays are not those that were encoded")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            self._note(f"the encoded corpus in {folder} is damaged ({error}); encoding again")
            self._remove(folder)
            return None
        self._note(f"using the encoded corpus in {folder}")
        return entry

    def folder(self) -> Path:
        """Return the folder in which the entry is made.

        :raises EmbedtrainError: if it cannot be written to.
        """
        if self._partial is None:
            with self.explained():
                self.root.mkdir(parents=True, exist_ok=True)
                remove_partials(self.root, _NAME)
                self._partial, self._lock = make_partial(self.root / self._name)
        assert self._partial is not None
        return self._partial

    def put(self, entry: Entry, large: frozenset[str], keep: bool = True) -> Entry:
        """Write an entry and, if there is a key, put it in its place. Returns it with mapped arrays.

        Arrays that lie in :meth:`folder` already, under their names, are left as they are.

        :param large: arrays that are not hashed.
        :param keep: False: only for this process, all the same.
        :raises EmbedtrainError: if it cannot be written.
        """
        folder = self.folder()
        with self.explained():
            files: dict[str, dict[str, Any]] = {}
            for name, array in entry.arrays.items():
                path = folder / f"{name}.bin"
                if not path.exists():
                    array.tofile(path)
                files[path.name] = {"dtype": array.dtype.str}
                if name in large:
                    info = path.stat()
                    files[path.name] |= {"mtime_ns": info.st_mtime_ns, "inode": info.st_ino}
                else:
                    files[path.name]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
            for name, value in entry.values.items():
                path = folder / f"{name}.json"
                data = _json(value)
                path.write_bytes(data)
                files[path.name] = {"sha256": hashlib.sha256(data).hexdigest()}
            for name, file_facts in files.items():
                file_facts["size"] = (folder / name).stat().st_size
            if self._key is None or not keep:
                return Entry(_map(folder, files), entry.values, entry.facts)
            meta = {"format": _FORMAT, "key": self._key, "facts": entry.facts, "files": files}
            meta["sha256"] = hashlib.sha256(_json(meta)).hexdigest()
            (folder / _META).write_bytes(_json(meta))
            for path in (*folder.iterdir(), folder):
                sync(path)
            arrays = _map(folder, files)
            self._put_in_place(folder)
        return Entry(arrays, entry.values, entry.facts)

    def explained(self) -> contextlib.AbstractContextManager[None]:
        """Turn a failure of the file system into a line for the user."""
        return explained(f"the encoded corpus to {self.root} (--cache-dir)")

    def _put_in_place(self, folder: Path) -> None:
        target = self.root / self._name
        try:
            folder.rename(target)
        except OSError:
            if not target.is_dir():
                raise
            return  # another process was faster, and the same corpus gives the same entry
        self._partial = None
        sync(self.root)
        self._unlock()
        self._note(f"kept the encoded corpus ({_size(target)}) in {target}, to be used again{self._others(target)}")

    def _others(self, target: Path) -> str:
        """Say what other entries take, because nobody but the user removes them."""
        others = [path for path in self.root.iterdir() if re.fullmatch(_NAME, path.name) and path != target]
        return f"; {len(others)} more there take {_size(*others)}, delete what you no longer need" if others else ""

    def _read(self, folder: Path) -> tuple[Entry, bool]:
        """Read an entry; returns it and whether the large arrays are surely those that were written."""
        meta = json.loads((folder / _META).read_bytes())
        checksum = meta.pop("sha256")
        if checksum != hashlib.sha256(_json(meta)).hexdigest():
            raise ValueError(f"{_META} was changed")
        if meta["format"] != _FORMAT or meta["key"] != self._key:
            raise ValueError(f"{_META} is that of something else")
        sure = True
        values = {}
        for name, facts in meta["files"].items():
            path = folder / name
            if Path(name).name != name or path.is_symlink() or not path.is_file():
                raise ValueError(f"{name} is missing")
            info = path.stat()
            if info.st_size != facts["size"]:
                raise ValueError(f"{name} has {info.st_size:,} bytes instead of {facts['size']:,}")
            if "sha256" not in facts:
                sure = sure and (info.st_mtime_ns, info.st_ino) == (facts["mtime_ns"], facts["inode"])
                continue
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() != facts["sha256"]:
                raise ValueError(f"{name} was changed")
            if path.suffix == ".json":
                values[path.stem] = json.loads(data)
        return Entry(_map(folder, meta["files"]), values, meta["facts"]), sure

    def _remove(self, folder: Path) -> None:
        """Remove an entry, unless other things lie in it too."""
        if not folder.is_dir() or any(path.suffix not in (".bin", ".json") for path in folder.iterdir()):
            self._note(f"{folder} is left alone, because it holds other things; remove it yourself")
            return
        with contextlib.suppress(OSError):
            gone = folder.with_name(f"{folder.name}.partial-{secrets.token_hex(4)}")
            folder.rename(gone)
            shutil.rmtree(gone)

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _size(*folders: Path) -> str:
    size = 0
    for folder in folders:
        with contextlib.suppress(OSError):  # another process may remove it now
            size += sum(path.stat().st_size for path in folder.iterdir())
    return f"{size / 1e6:,.1f} MB"


def map_array(path: Path, dtype: np.dtype[Any]) -> Array:
    """Map a file, so that only what is looked at takes memory, and none that could not be had back."""
    # An empty file cannot be mapped.
    return np.asarray(np.memmap(path, dtype, mode="r")) if path.stat().st_size else np.empty(0, dtype)


def _map(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    for name, facts in files.items():
        if "dtype" in facts:
            dtype = np.dtype(facts["dtype"])
            if dtype.kind not in "iuf":
                raise ValueError(f"{name} holds no numbers")
            path = folder / name
            arrays[path.stem] = map_array(path, dtype)
    return arrays


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, sort_keys=True).encode("utf-8", "surrogatepass")
