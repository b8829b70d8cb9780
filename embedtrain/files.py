"""What writing files that outlive a crash takes: sync, swap, lock, and failures said in words."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from embedtrain.errors import EmbedtrainError

_ADVICE = {
    errno.ENOSPC: "free some space or choose a folder on another disk",
    errno.EDQUOT: "free some space or choose a folder on another disk",
    errno.EFBIG: "raise the file size limit (ulimit -f) or choose a folder on another disk",
}


def sync(path: Path) -> None:
    """Bring a file, or what a folder lists, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems (network ones mostly) do not sync folders.
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(descriptor)


def exchange(first: Path, second: Path) -> bool:
    """Swap two files or folders of one file system in one step; False where the system cannot, and nothing is done."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2  # Linux; Python has no function for it
    except (AttributeError, OSError):
        return False
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if rename(here, os.fsencode(first), here, os.fsencode(second), swap) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):  # the kernel, or the file system
        return False
    raise OSError(number, os.strerror(number), str(first))


def lock(folder: Path) -> int | None:
    """Take a folder for this process; the lock ends with the process, however that ends.

    :return: a descriptor to close when the folder is no longer needed; None where there are no locks.
    :raises BlockingIOError: if another process has it.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EBADF):
            return None
        raise
    return descriptor


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn a failure of the file system into a line for the user.

    :param what: what cannot be written.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch.save hides the failed write behind a RuntimeError of its own.
        causes = chain([error], _contexts(error))
        cause = next((cause for cause in causes if isinstance(cause, OSError)), None)
        if cause is None:
            raise
        reason = (cause.strerror or str(cause)).lower()
        advice = _ADVICE.get(cause.errno or 0, "choose another folder")
        raise EmbedtrainError(f"cannot write {what}: {reason}; {advice}") from error


def _contexts(error: BaseException) -> Iterator[BaseException]:
    while (context := error.__context__) is not None:
        yield context
        error = context
