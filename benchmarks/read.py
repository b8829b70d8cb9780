"""Read vectors as text with embedtrain and with gensim: seconds, processor seconds, and peak memory.

``python benchmarks/read.py`` writes 400,000 × 300 numbers as word2vec text (1.1 GB) to a temporary folder and reads it
with each, in turn, three times, each in a process of its own. The memory is the peak of the process less what it had
after its imports, in units of the matrix that it keeps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

READ = {
    "embedtrain": ("import embedtrain.vectorfiles", "embedtrain.read(path, special_rows=False).weight"),
    "gensim": ("from gensim.models import KeyedVectors", "KeyedVectors.load_word2vec_format(path).vectors"),
}
CHILD = """
import json, resource, sys, time
path = sys.argv[1]
{imports}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
wall, processor = time.perf_counter(), time.process_time()
matrix = {read}
wall, processor = time.perf_counter() - wall, time.process_time() - processor
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps([wall, processor, peak * 1024 / matrix.nbytes]))
"""


def write(path: Path, rows: int, dim: int) -> None:
    """Write word2vec text with six decimals, as word2vec.c does. The numbers of every 10,000 rows are the same."""
    import numpy as np

    numbers = np.random.default_rng(1).normal(scale=0.3, size=(min(rows, 10_000), dim))
    lines = [(" " + " ".join(f"{number:.6f}" for number in row) + "\n").encode() for row in numbers]
    with path.open("wb") as file:
        file.write(b"%d %d\n" % (rows, dim))
        file.writelines(b"word%d" % row + lines[row % len(lines)] for row in range(rows))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--dim", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    figures: dict[str, list[list[float]]] = {tool: [] for tool in READ}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.txt"
        write(path, options.rows, options.dim)
        for _ in range(options.repeats):
            for tool, (imports, read) in READ.items():
                command = [sys.executable, "-c", CHILD.format(imports=imports, read=read), str(path)]
                done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
                figures[tool].append(json.loads(done.stdout))
    print("| | seconds | processor seconds | peak memory, matrices |\n|---|---|---|---|")
    for tool, runs in figures.items():
        wall, processor, memory = (statistics.median(values) for values in zip(*runs, strict=True))
        print(f"| {tool} | {wall:.1f} | {processor:.1f} | {memory:.2f} |")
    ratios = [slow[0] / fast[0] for fast, slow in zip(figures["embedtrain"], figures["gensim"], strict=True)]
    print(f"\nembedtrain is {statistics.median(ratios):.1f} times as fast (median of {len(ratios)} ratios)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
