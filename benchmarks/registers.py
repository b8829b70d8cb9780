"""Print what each CUDA kernel takes of a multiprocessor: registers, stack, spills, shared memory. Needs nvcc, no GPU.

``python benchmarks/registers.py [--arch sm_90]``. Warnings of the compiler are errors here.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FLAGS = ["-std=c++17", "-O3", "-Werror", "all-warnings", "-Xcompiler=-Wall,-Wextra", "-Xptxas", "-v", "-cubin"]
KERNELS = ("keep_tokens", "sum_and_take_margins", "find_windows", "train_windows", "fill_initial_weights")
# A report of ptxas on one kernel.
REPORT = re.compile(
    r"Function properties for (\S+)\s+(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads\s+"
    r"ptxas info\s*: Used (\d+) registers(?:.*?(\d+) bytes smem)?"
)


def compile_for(nvcc: str, arch: str) -> list[tuple[str, str, int, int, int, int]]:
    """Return (arch, kernel, registers, stack, spilled, static shared memory) of each kernel."""
    with tempfile.TemporaryDirectory() as folder:
        command = [nvcc, *FLAGS, f"-arch={arch}", f"-I{ROOT}/csrc", "-o", f"{folder}/kernels.cubin"]
        result = subprocess.run([*command, f"{ROOT}/csrc/cuda/sgns.cu"], capture_output=True, text=True)
    if result.returncode:
        sys.exit(result.stdout + result.stderr)
    rows = []
    for symbol, stack, stores, loads, registers, shared in REPORT.findall(result.stdout + result.stderr):
        name = next(name for name in KERNELS if name in symbol)
        rows.append((arch, name, int(registers), int(stack), int(stores) + int(loads), int(shared or 0)))
    return sorted(rows, key=lambda row: KERNELS.index(row[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", nargs="+", default=["sm_80", "sm_90", "sm_100"])
    options = parser.parse_args()
    nvcc = os.environ.get("CUDACXX") or shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    with ThreadPoolExecutor(max_workers=2) as pool:
        reports = list(pool.map(lambda arch: compile_for(nvcc, arch), options.arch))
    print(f"{'':6}  {'kernel':20}  registers  stack  spilled  shared memory, bytes")
    for arch, name, registers, stack, spilled, shared in (row for report in reports for row in report):
        print(f"{arch:6}  {name:20}  {registers:9}  {stack:5}  {spilled:7}  {shared}")
    from embedtrain.native import core

    if core.cuda_toolkit is not None:
        print("\ntrain_windows takes besides, for each worker (window in flight), W 5:")
        for dim, negative in ((100, 5), (300, 5), (1024, 5), (100, 20), (1024, 64)):
            threads, shared = core.cuda_worker(dim, 5, negative)
            print(f"  D {dim:4}, K {negative:2}: {threads:3} threads, {shared:6} bytes of shared memory")


if __name__ == "__main__":
    main()
