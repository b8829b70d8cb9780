"""What the commands have in common: errors as one line, exit codes, an orderly end when interrupted."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

from embedtrain.errors import EmbedtrainError


def run_command(command: Callable[[], None], out_of_memory: str) -> int:
    """Run a command; return its exit code: 0, 2 for bad input, above 128 when interrupted.

    :param out_of_memory: what to do about it, for the error message.
    """
    # An orderly exit, so that temporary folders are removed.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        command()
        sys.stdout.flush()
    except EmbedtrainError as error:
        print(f"embedtrain: {error}", file=sys.stderr)
        return 2
    except MemoryError:
        print(f"embedtrain: out of memory; {out_of_memory}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("embedtrain: interrupted; nothing was written", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output has gone (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at its end
        return 128 + signal.SIGPIPE
    return 0
