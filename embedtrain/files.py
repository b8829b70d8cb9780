"""What writing files that outlive a crash takes: sync, swap, lock, temporary names, and failures said in words."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
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


def make_partial(target: Path) -> tuple[Path, int | None]:
    """Make a folder beside ``target``, to be renamed to it when it is complete.

    :return: the folder, and the descriptor of its :func:`lock`, which keeps it from :func:`remove_partials`.
    """
    while True:
        partial = target.with_name(f"{target.name}.partial-{secrets.token_hex(4)}")
        partial.mkdir()  # mkdtemp would make it readable by its owner only, and so the result
        # Until it is locked, another process may take it for one that was left behind.
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            descriptor = lock(partial)
            if partial.exists():
                return partial, descriptor
            if descriptor is not None:
                os.close(descriptor)


def remove_partials(folder: Path, targets: str) -> None:
    """Remove from a folder what :func:`make_partial` made there for processes that were killed.

    :param targets: a regular expression for the names of the targets.
    """
    name = re.compile(rf"(?:{targets})\.partial-[0-9a-f]{{8}}")
    for path in folder.iterdir():
        if name.fullmatch(path.name) and not path.is_symlink():
            with contextlib.suppress(OSError):  # of a process that is alive
                descriptor = lock(path)
                if descriptor is not None:
                    shutil.rmtree(path, ignore_errors=True)
                    os.close(descriptor)


def replace_file(path: Path, text: str) -> None:
    """Write a file of text so that it is there complete, or stays as it was.

    :raises EmbedtrainError: if it cannot be written.
    """
    temporary = path.with_name(f"{path.name}.partial-{secrets.token_hex(4)}")
    try:
        with explained(str(path)):
            write_text(temporary, text)
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a file of text, as it is, in UTF-8."""
    # A file name that is not UTF-8 comes as lone surrogates; written like this they are JSON's own escapes.
    path.write_bytes(text.encode("utf-8", "backslashreplace"))


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn a failure of the file system into a line for the user.

    :param what: what cannot be written.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch.save hides the failed write, or the interrupt, behind a RuntimeError of its own.
        causes = [error, *_contexts(error)]
        if interrupt := next((cause for cause in causes if not isinstance(cause, Exception)), None):
            raise interrupt from None
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
