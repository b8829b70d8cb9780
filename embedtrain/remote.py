"""Files behind URLs, which fsspec opens: http(s), s3, gs, hf and whatever else it has a package for."""

from __future__ import annotations

import importlib
import re
from typing import Any

from embedtrain.errors import EmbedtrainError

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")


def is_url(name: str) -> bool:
    """Say whether a name is for fsspec to open."""
    return _URL.match(name) is not None


def file_system(url: str) -> tuple[Any, str]:
    """Return the file system of fsspec and the path in it.

    :raises EmbedtrainError: if fsspec, or the package that it needs for this protocol, is not installed.
    """
    try:
        core = importlib.import_module("fsspec.core")
    except ImportError as error:
        raise EmbedtrainError(f"{url}: to read URLs, install fsspec (pip install 'embedtrain[url]')") from error
    try:
        system, path = core.url_to_fs(url)
    except ImportError as error:
        raise EmbedtrainError(
            f"{url}: the package for this protocol is missing ({first_line(error)}); install it with pip"
        ) from error
    except Exception as error:  # of whatever package it is
        raise unreadable(url, error) from error
    return system, path


def open_url(url: str, *, stream: bool) -> Any:
    """Open a file in binary.

    :param stream: it is read from begin to end, so that over http one request will do.
    :raises EmbedtrainError: if it cannot be opened.
    """
    system, path = file_system(url)
    options = {"block_size": 0} if stream and url.startswith("http") else {}
    try:
        return _File(url, system.open(path, "rb", **options))
    except Exception as error:  # of whatever package it is
        raise unreadable(url, error) from error


class _File:
    """A file of fsspec. Reading it raises EmbedtrainError, whatever the package raises that does the work."""

    def __init__(self, url: str, file: Any) -> None:
        self._url = url
        self._file = file

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, size: int = -1) -> bytes:
        try:
            return bytes(self._file.read(size))
        except Exception as error:
            raise unreadable(self._url, error) from error

    def readinto(self, buffer: Any) -> int:
        try:
            return int(self._file.readinto(buffer))
        except Exception as error:
            raise unreadable(self._url, error) from error


def unreadable(name: str, error: Exception) -> EmbedtrainError:
    """Say in a line that a file cannot be read."""
    if isinstance(error, EmbedtrainError):
        return error
    why = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read ({first_line(error)})"
    return EmbedtrainError(f"{name}: {why}")


def first_line(error: Exception) -> str:
    """Return what an error says, in a line."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
