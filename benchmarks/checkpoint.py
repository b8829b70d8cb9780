"""How long training stops for a checkpoint, and how long it takes until it is on the disk.

``python benchmarks/checkpoint.py --rows 1000000 --dim 100``

``copy`` is what copying both tables takes by itself, ``stop`` what :meth:`Checkpoints.save` takes before training goes
on, ``disk`` from its start until the file is synced and renamed, ``read`` checking and loading it. Each is measured in
turn, and the median is given.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from embedtrain import ops
from embedtrain.loop import State
from embedtrain.options import Options
from embedtrain.training_state import Checkpoints, newest


def main() -> int:
    parser = argparse.ArgumentParser(description="Time checkpoints.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; a temporary one by default")
    options = parser.parse_args()
    tables = [ops.new_table(options.rows, options.dim) for _ in range(2)]
    ops.initial_weights(tables[0], 0, 1)
    times: dict[str, list[float]] = {"copy": [], "stop": [], "disk": [], "read": []}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder, Checkpoints(folder) as checkpoints:
        checkpoints.begin(Options(dim=options.dim), {}, None)
        for number in range(options.repeats):
            start = time.perf_counter()
            copies = [torch.empty(table.shape).copy_(table) for table in tables]
            times["copy"].append(time.perf_counter() - start)
            del copies
            start = time.perf_counter()
            checkpoints.save(State(number + 1), tables[0], tables[1])
            times["stop"].append(time.perf_counter() - start)
            checkpoints.finish(State(number + 1), tables[0], tables[1])  # waits for the one that is being written
            times["disk"].append(time.perf_counter() - start)
            start = time.perf_counter()
            saved = newest(Path(folder))
            assert saved is not None
            saved.load(tables[0], tables[1])
            times["read"].append(time.perf_counter() - start)
    print(
        f"{options.rows:,} x {options.dim}, {2 * 4 * options.rows * options.dim / 1e9:.2f} GB; median of each, seconds"
    )
    for name, seconds in times.items():
        print(f"{name:5} {statistics.median(seconds):.2f}  ({min(seconds):.2f} to {max(seconds):.2f})")
    ratio = statistics.median(stop / copy for stop, copy in zip(times["stop"], times["copy"], strict=True))
    print(f"stop / copy: {ratio:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
