"""Finds the files that the paths of a corpus stand for: files, globs, folders, saved datasets, URLs."""

from __future__ import annotations

import glob
import json
import os
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from embedtrain import remote, sources
from embedtrain.errors import EmbedtrainError
from embedtrain.sources import Kind, Source

# The kinds of files that are no text, by their first bytes and, behind a URL, by the end of the name.
_KINDS: tuple[tuple[Kind, bytes, str], ...] = (
    ("parquet", b"PAR1", ".parquet"),
    ("arrow", b"ARROW1", ".arrow"),
    ("arrow", b"\xff\xff\xff\xff", ".arrows"),  # a stream: what the datasets library writes
    ("arrow", b"ARROW1", ".feather"),
    ("npy", b"\x93NUMPY", ".npy"),
    ("npz", b"PK\x03\x04", ".npz"),
    ("npz", b"PK\x05\x06", ".npz"),  # without arrays
)
_HEAD_BYTES = 8
# What tells whether the file behind a URL has changed: the names that the file systems of fsspec use.
_VERSIONS = frozenset(
    {"ETag", "etag", "e_tag", "Last-Modified", "LastModified", "last_modified", "mtime", "Content-MD5", "Digest"}
    | {"md5Hash", "crc32c", "generation", "version_id", "blob_id"}
)


@dataclass(frozen=True)
class Found:
    """The files that a path stands for."""

    name: str
    """The path as it was given."""
    files: tuple[Source, ...]
    left_out: dict[str, int] = field(default_factory=dict)
    """What a folder holds besides them."""

    @property
    def size(self) -> int | None:
        """Bytes of all files as stored, None when unknown."""
        return sources.total_size(self.files)


def find(path: str | os.PathLike[str]) -> Found:
    """Look up what a path stands for.

    - "-": standard input.
    - ``data/*.txt.gz``, ``data/**/*.txt``: the files that match, in the order of their names.
    - A folder: all files in it and in its folders, in the order of their paths, without hidden ones. Links to folders
      are not followed.
    - A folder that ``datasets.Dataset.save_to_disk`` wrote: its Arrow files.
    - A URL (``://``): fsspec opens it. A glob or a folder works there as well, but not over http.

    :raises EmbedtrainError: if there is no such file, none matches or the folder has none.
    """
    name = os.fspath(path)
    if not name:
        raise EmbedtrainError("the name of the corpus is empty")
    if remote.is_url(name):
        return _find_remote(name)
    try:
        is_folder, exists = Path(name).is_dir(), Path(name).exists()
    except (OSError, ValueError):  # sources.find says what is wrong with it
        is_folder, exists = False, True
    if is_folder and name != "-":
        return _find_dataset(name) or _find_in_folder(name)
    if glob.has_magic(name) and not exists:
        matches = sorted(glob.glob(name, recursive=True))  # noqa: PTH207  Path.glob takes no absolute pattern
        files = [match for match in matches if not Path(match).is_dir()]
        if not files:
            raise EmbedtrainError(f"{name}: no file matches")
        folders = 0 if "**" in name else len(matches) - len(files)
        return Found(name, tuple(map(_known, files)), {"folders": folders} if folders else {})
    source = _known(name)
    return Found(source.name, (source,))


def _known(path: str | Path) -> Source:
    """Look up a file and, by its first bytes, its kind. A pipe is text."""
    source = sources.find(path)
    if source.size is None:
        return source
    with sources.Stream(source) as stream:
        head, plain = stream.read(_HEAD_BYTES), stream.compression is None
    kind: Kind = next((kind for kind, magic, _ in _KINDS if head.startswith(magic)), "text")
    if kind in ("parquet", "arrow", "npz") and not plain:
        raise EmbedtrainError(f"{source}: decompress this {kind} file first")
    return replace(source, kind=kind, plain=plain and kind in ("text", "npy"))


def _find_in_folder(folder: str) -> Found:
    files: list[str] = []
    left_out: Counter[str] = Counter()

    def refuse(error: OSError) -> None:
        raise EmbedtrainError(f"{error.filename}: cannot be read ({error.strerror})") from error

    for place, folders, names in os.walk(folder, onerror=refuse):
        hidden = {name for name in folders if name.startswith(".")}
        links = {name for name in folders if Path(place, name).is_symlink()} - hidden
        left_out["hidden folders"] += len(hidden)
        left_out["links to folders"] += len(links)
        folders[:] = set(folders) - hidden - links
        for name in names:
            path = Path(place, name)
            if name.startswith("."):
                left_out["hidden files"] += 1
            elif not path.is_file():
                left_out["broken links" if path.is_symlink() else "pipes, sockets and devices"] += 1
            else:
                files.append(str(path))
    found = Found(folder, tuple(map(_known, sorted(files))), {what: count for what, count in left_out.items() if count})
    if not files:
        raise EmbedtrainError(f"{folder}: there are no files in this folder{_besides(found)}")
    return found


def _find_dataset(folder: str) -> Found | None:
    """Return the Arrow files of a folder that the datasets library has saved, or None if it is not one."""
    if Path(folder, "dataset_dict.json").is_file():
        splits = sorted(path.parent.name for path in Path(folder).glob("*/state.json"))
        raise EmbedtrainError(f"{folder}: this dataset has several splits; give one of the folders {', '.join(splits)}")
    state = Path(folder, "state.json")
    if not state.is_file() or not Path(folder, "dataset_info.json").is_file():
        return None
    try:
        names = [file["filename"] for file in json.loads(state.read_bytes())["_data_files"]]
        # What the file says must not lead out of the folder.
        good = all(isinstance(name, str) and name == Path(name).name != ".." for name in names)
    except OSError as error:
        raise EmbedtrainError(f"{state}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, RecursionError):
        good = False
    if not good:
        raise EmbedtrainError(f"{state}: does not say which files in the folder the dataset is made of")
    if not names:
        raise EmbedtrainError(f"{folder}: the dataset is empty")
    return Found(folder, tuple(_known(Path(folder, name)) for name in names))


def _find_remote(url: str) -> Found:
    system, path = remote.file_system(url)
    try:
        if url.startswith("http"):  # "*" and "?" are ordinary characters there, and a folder is a page
            names = [path]
        elif glob.has_magic(path):
            names = sorted(system.glob(path))
        elif system.isdir(path):
            names = sorted(name for name in system.find(path) if "/." not in name[len(path) :])
        else:
            names = [path]
        infos = [system.info(name) for name in names]
        full = [url if name == path else str(system.unstrip_protocol(name)) for name in names]
    except Exception as error:  # of whatever package it is
        raise remote.unreadable(url, error) from error
    files = []
    for name, info in zip(full, infos, strict=True):
        if info.get("type") == "directory":
            continue
        versions = sorted((key, str(value)) for key, value in info.items() if key in _VERSIONS and value is not None)
        end = re.split("[?#]", name)[0].lower()
        kind: Kind = next((kind for kind, _, suffix in _KINDS if end.endswith(suffix)), "text")
        files.append(Source(name, info.get("size"), kind=kind, version=repr(versions) if versions else None))
    if not files:
        raise EmbedtrainError(f"{url}: no file matches")
    return Found(url, tuple(files))


def _besides(found: Found) -> str:
    what = ", ".join(f"{what} ({count:,})" for what, count in found.left_out.items())
    return f"; left out: {what}" if what else ""


def describe(found: Found) -> str | None:
    """Return a line about what was taken and left out, or None if there is nothing to say."""
    if len(found.files) == 1 and not found.left_out:
        return None
    return f"{found.name}: {len(found.files):,} files{_besides(found)}"
