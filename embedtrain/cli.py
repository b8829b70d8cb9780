"""What the commands have in common: errors as one line, exit codes, an orderly end when interrupted."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
from collections.abc import Callable

from embedtrain.errors import EmbedtrainError


def run_command(command: Callable[[], None], out_of_memory: str) -> int:
    """Run a command; return its exit code: 0, 2 for bad input, above 128 when interrupted.

    :param out_of_memory: what to do about it, for the error message.
    """
    # Python looks for garbage as it ends. Of all that torch has made, that takes most of a second.
    atexit.register(gc.freeze)
    # An orderly exit, so that temporary folders are removed and a training is saved.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, lambda number, frame: sys.exit(128 + number))
    try:
        command()
        if sys.stdout is not None:  # None: it is closed
            sys.stdout.flush()
    except EmbedtrainError as error:
        if not error.told:
            print(f"embedtrain: {error}", file=sys.stderr)
        return error.code
    except MemoryError:
        print(f"embedtrain: out of memory; {out_of_memory}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("embedtrain: interrupted; nothing was written", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output has gone (`| head`)
        drop_output()
        return 128 + signal.SIGPIPE
    return 0


def drop_output() -> None:
    """Forget what could not be written to standard output, or Python complains once more at its end."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
