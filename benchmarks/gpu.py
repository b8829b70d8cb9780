"""Build, test and measure the training on a GPU. Needs an ordinary CUDA image with PyTorch, and no network.

``python benchmarks/gpu.py --json gpu.json``
``python benchmarks/gpu.py --parts quality --corpus corpus.txt.xz --pairs wordsim353.tsv simlex999.tsv --analogies
questions-words.txt --json quality.json``

Parts, in this order (all but those that take long or need files are run if none is named):

build      the native core, in place, if it is not there or ``--rebuild`` is given
tests      tests/test_gpu.py: the kernels on this GPU against the float64 reference
sanitizer  a part of them under compute-sanitizer: memory, races, synchronisation (minutes)
memory     gpu_memory.cu: rows read and added to per second, uniform and Zipf addresses
speed      the kernels on synthetic text (Zipf's law): words/s over dimensions, vocabularies and windows in flight
billion    an epoch of a billion tokens, V = 1,000,000, encoded before, by the loop that ``--device cuda`` runs
profile    Nsight Compute on the training kernel: what bounds it (needs ncu)
quality    ``--corpus``: loss, similarity and analogies, GPU and CPU (and gensim if it is here), several seeds

What cannot run here is said and left out of the JSON. A table comes last.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))
DEVICE = "cuda"
VOCABULARIES = (50_000, 1_000_000)
PARTS = ("build", "tests", "sanitizer", "memory", "speed", "billion", "profile", "quality")
DEFAULT_PARTS = ("build", "tests", "memory", "speed", "billion")


class Unavailable(Exception):
    """A part cannot run here; the message says why."""


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def output_of(command: list[Any], **options: Any) -> str:
    """Run a command; return what it prints.

    :raises Unavailable: with the end of its output, if it fails.
    """
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT, **options)
    if result.returncode:
        end = "\n".join((result.stdout + result.stderr).splitlines()[-25:])
        raise Unavailable(f"{command[0]} failed with exit code {result.returncode}:\n{end}")
    return result.stdout


def need_gpu() -> None:
    from embedtrain.device import gpu_problem

    problem = gpu_problem("cuda")
    if problem is not None:
        raise Unavailable(problem)


def find(tool: str) -> str:
    path = shutil.which(tool) or shutil.which(f"/usr/local/cuda/bin/{tool}")
    if path is None:
        raise Unavailable(f"{tool} is not here")
    return path


# ---- build and tests


def build(options: argparse.Namespace) -> dict[str, Any]:
    built = list((ROOT / "embedtrain").glob("_native*.so"))
    if built and not options.rebuild:
        return {"built": False}
    start = time.perf_counter()
    find("nvcc")
    environment = os.environ | {"EMBEDTRAIN_CUDA": "on"}
    output_of([sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"], env=environment)
    return {"built": True, "seconds": round(time.perf_counter() - start, 1)}


def tests(options: argparse.Namespace) -> dict[str, Any]:
    need_gpu()
    report = output_of([sys.executable, "-m", "pytest", "-q", "tests/test_gpu.py"])
    return {"summary": report.strip().splitlines()[-1]}


def sanitizer(options: argparse.Namespace) -> dict[str, Any]:
    need_gpu()
    tool = find("compute-sanitizer")
    chosen = "dim=100 or dim=300 or current_stream or bad_words"
    found = {}
    for check in ("memcheck", "racecheck", "synccheck", "initcheck"):
        command = [tool, "--tool", check, "--error-exitcode", "9", sys.executable, "-m", "pytest", "-q"]
        report = output_of([*command, "tests/test_gpu.py", "-k", chosen, "-p", "no:cacheprovider"])
        found[check] = next((line for line in report.splitlines() if "SUMMARY" in line), "no summary")
        say(f"  {check}: {found[check]}")
    return found


# ---- bandwidth


def memory(options: argparse.Namespace) -> list[dict[str, Any]]:
    need_gpu()
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "gpu_memory"
        flags = ["-O3", "-std=c++17", "-arch=native", f"-I{ROOT}/csrc"]
        output_of([find("nvcc"), *flags, "-o", program, HERE / "gpu_memory.cu"])
        rows = [json.loads(line) for line in output_of([program]).splitlines()]
    for row in rows:
        say(
            f"  V {row['vocabulary']:>9,}  D {row['dim']}  {row['addresses']:8} {row['work']:15} "
            f"{row['bytes_per_second'] / 1e9:8.0f} GB/s  {row['rows_per_second'] / 1e9:6.2f} G rows/s"
        )
    return rows


# ---- speed


def zipf_corpus(tokens: int, vocabulary: int, device: Any, sentence: int = 25) -> tuple[Any, Any, Any]:
    """Draw ids by Zipf's law, in sentences of one length, on the device; return ids, offsets and counts."""
    import torch

    generator = torch.Generator(device).manual_seed(1)
    ranks = torch.arange(vocabulary, device=device, dtype=torch.float64)
    sums = torch.cumsum(1 / (ranks + 2.7), 0)
    ids = torch.empty(tokens, dtype=torch.int32, device=device)
    counts = torch.zeros(vocabulary, dtype=torch.int64, device=device)
    for part in ids.split(20_000_000):
        points = torch.rand(len(part), generator=generator, dtype=torch.float64, device=device) * sums[-1]
        part.copy_(torch.searchsorted(sums, points).clamp(max=vocabulary - 1))
        counts += torch.bincount(part, minlength=vocabulary)
    offsets = torch.arange(0, tokens + sentence, sentence, device=device).clamp(max=tokens)
    return ids, torch.unique_consecutive(offsets), counts.clamp(min=1)


class Speed:
    """Trains on one stretch of a corpus after the other, on a device."""

    def __init__(self, ids: Any, offsets: Any, counts: Any, dim: int, sample: float, kernels: Any = None):
        from embedtrain import cuda, ops

        self.ids, self.offsets, self.counts, self.dim = ids, offsets, counts.cpu(), dim
        self.device, self.kernels = ids.device, kernels or cuda.core
        self.keep = ops.keep_thresholds(self.counts, sample).to(self.device)
        self.noise = ops.alias_table(self.counts, 0.75).to(self.device)
        self.input = ops.new_table(len(self.counts), dim, device=self.device)
        self.output = ops.new_table(len(self.counts), dim, device=self.device)
        cuda.initial_weights(self.input, 0, 1, kernels=self.kernels)
        self.begin = 0

    def default_workers(self) -> int:
        return int(self.kernels.cuda_default_workers(self.dim, 5, 5, 0))

    def stretch(self, tokens: int, workers: int) -> dict[str, float]:
        """Return seconds, and loss, pairs and centres, of the next tokens."""
        import torch

        from embedtrain import cuda

        tokens = min(tokens, len(self.ids))
        if self.begin + tokens > len(self.ids):
            self.begin = 0
        stats = torch.zeros(3, dtype=torch.float64, device=self.device)
        factors = cuda.damping(self.counts.to(self.device), self.keep, self.noise, workers, 5, 5, True, 0.025)
        with self._timed() as seconds:
            cuda.train_block(
                self.input, self.output, stats, self.ids, self.offsets, self.keep, self.noise, self.begin,
                self.begin + tokens, 0, len(self.ids), 0, 5, 1, 5, 5, True, 0.025, 1e-4, workers, factors=factors,
                kernels=self.kernels,
            )  # fmt: skip
        self.begin += tokens
        loss, pairs, centres = stats.tolist()
        return {
            "seconds": seconds(),
            "tokens": tokens,
            "loss": loss / max(pairs, 1),
            "pairs": pairs,
            "centres": centres,
        }

    @contextlib.contextmanager
    def _timed(self) -> Iterator[Callable[[], float]]:
        import torch

        if self.device.type != "cuda":
            start = time.perf_counter()
            yield lambda: time.perf_counter() - start
            return
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        yield lambda: (after.synchronize(), before.elapsed_time(after) / 1e3)[1]
        after.record()


def summarise_speed(rows: list[dict[str, float]], dim: int, negative: int = 5) -> dict[str, float]:
    """Medians, and the bytes of rows that training moves: each context and target is read, and added to, once."""
    speed = statistics.median(row["tokens"] / row["seconds"] for row in rows)
    contexts = rows[-1]["pairs"] / rows[-1]["centres"]
    bytes_per_centre = 2 * (contexts + 1 + negative) * 4 * dim
    centres = statistics.median(row["centres"] / row["seconds"] for row in rows)
    return {
        "words_per_second": speed,
        "slowest": min(row["tokens"] / row["seconds"] for row in rows),
        "fastest": max(row["tokens"] / row["seconds"] for row in rows),
        "centres_per_second": centres,
        "pairs_per_second": statistics.median(row["pairs"] / row["seconds"] for row in rows),
        "row_bytes_per_word": bytes_per_centre * centres / speed,
        "row_bytes_per_second": bytes_per_centre * centres,
        "loss": rows[-1]["loss"],
    }


def speed(options: argparse.Namespace) -> list[dict[str, Any]]:
    need_gpu()
    import torch

    processors = machine()["multiprocessors"]
    results = []
    for vocabulary in VOCABULARIES:
        corpus = zipf_corpus(options.tokens, vocabulary, torch.device(DEVICE))
        for dim, sample in ((100, 1e-3), (100, 1e-4), (300, 1e-3)):
            bench = Speed(*corpus, dim, sample)
            default = bench.default_workers()
            sweep = {default}
            if (dim == 100 and sample == 1e-3) or dim == 300:
                sweep |= {count * processors for count in (2, 4, 8, 12, 16, 18)}
            for workers in sorted(sweep):
                bench.stretch(options.tokens // 8, workers)  # a warm-up
                rows = [bench.stretch(options.tokens // 4, workers) for _ in range(5)]
                result = {"vocabulary": vocabulary, "dim": dim, "sample": sample, "workers": workers}
                results.append(result | {"default": workers == default} | summarise_speed(rows, dim))
                say(
                    f"  V {vocabulary:>9,}  D {dim}  sample {sample:g}  {workers:5} workers"
                    f"{' *' if workers == default else '  '} {results[-1]['words_per_second'] / 1e6:7.1f} M words/s  "
                    f"{results[-1]['row_bytes_per_second'] / 1e9:6.0f} GB/s of rows  loss {results[-1]['loss']:.3f}"
                )
            del bench
            torch.cuda.empty_cache()
    return results


def billion(options: argparse.Namespace) -> dict[str, Any]:
    """Time an epoch of the loop that ``--device cuda`` runs: ids to the card, training, reports, tables back."""
    need_gpu()
    import numpy as np
    import torch

    from embedtrain import cuda
    from embedtrain.corpus import Corpus
    from embedtrain.loop import State, train_blocks
    from embedtrain.options import Options

    ids, offsets, counts = zipf_corpus(options.billion, options.vocabulary, torch.device(DEVICE))
    ids, offsets, counts = ids.cpu().numpy(), offsets.cpu().numpy().astype(np.int64), counts.cpu().numpy()
    torch.cuda.empty_cache()

    class Vocabulary:  # words do not matter
        def __len__(self) -> int:
            return len(self.counts)

    Vocabulary.counts = counts
    corpus = Corpus(
        ids, offsets, Vocabulary(), sources=(), tokens_read=len(ids), lines=len(offsets) - 1, dropped={}, replaced=0,
        fingerprint="",
    )  # fmt: skip
    settings = Options(dim=100, epochs=1, sample=1e-3)
    results = {}
    for name, free in (("resident", None), ("streamed", 0)):
        card = cuda.Card(torch.device(DEVICE))
        if free is not None:
            card.free_bytes = lambda: 0
        start = time.perf_counter()
        input, output = cuda.tables(len(counts), settings, DEVICE)
        ready = time.perf_counter()
        last = {}
        engine = cuda.Gpu(corpus, settings, input, output, card=card)
        for report, _ in train_blocks(engine, len(ids), settings, State()):
            last = report
        trained = time.perf_counter()
        input.cpu()
        results[name] = {
            "tokens": len(ids),
            "tables_seconds": ready - start,
            "training_seconds": trained - ready,
            "download_seconds": time.perf_counter() - trained,
            "words_per_second": len(ids) / (trained - ready),
            "loss": last["loss"],
        }
        say(f"  {name}: {results[name]['training_seconds']:.2f} s, loss {last['loss']:.3f}")
        del input, output, engine
        torch.cuda.empty_cache()
    return results


def profile(options: argparse.Namespace) -> dict[str, Any]:
    need_gpu()
    tool = find("ncu")
    metrics = {
        "seconds": "gpu__time_duration.sum",
        "device memory, % of peak": "dram__throughput.avg.pct_of_peak_sustained_elapsed",
        "L2, % of peak": "lts__t_sectors.avg.pct_of_peak_sustained_elapsed",
        "L2 hit rate, %": "lts__t_sector_hit_rate.pct",
        "L2 atomics, sectors": "lts__t_sectors_op_red.sum",
        "issue slots, %": "sm__inst_issued.avg.pct_of_peak_sustained_elapsed",
        "FP32 pipe, %": "sm__inst_executed_pipe_fma.avg.pct_of_peak_sustained_active",
        "active warps, %": "sm__warps_active.avg.pct_of_peak_sustained_active",
        "stalled on memory": "smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio",
        "stalled on queues": "smsp__average_warps_issue_stalled_lg_throttle_per_issue_active.ratio",
    }
    script = (
        "import sys, torch; sys.path[:0] = [{root!r}, {here!r}]; import gpu\n"
        "bench = gpu.Speed(*gpu.zipf_corpus(4_000_000, {vocabulary}, torch.device('cuda')), {dim}, 1e-3)\n"
        "for _ in range(2): bench.stretch(2_000_000, bench.default_workers())\n"
    )
    results = {}
    for vocabulary, dim in ((50_000, 100), (1_000_000, 100), (50_000, 300)):
        code = script.format(root=str(ROOT), here=str(HERE), vocabulary=vocabulary, dim=dim)
        command = [tool, "--csv", "--kernel-name", "train_windows", "--launch-skip", "1", "--launch-count", "1"]
        command += ["--clock-control", "none", "--metrics", ",".join(metrics.values())]
        lines = output_of([*command, sys.executable, "-c", code]).splitlines()
        found = {}
        for name, metric in metrics.items():
            line = next((line for line in lines if f'"{metric}"' in line), None)
            found[name] = line.split('","')[-1].strip('"') if line else "not reported"
            say(f"  V {vocabulary:,}, D {dim}: {name}: {found[name]}")
        results[f"V {vocabulary}, D {dim}"] = found
    return results


# ---- quality


def spearman(vectors: Any, words: dict[str, int], path: Path) -> float:
    from evaluate import read_pairs
    from scipy.stats import spearmanr

    pairs = [(a.lower(), b.lower(), score) for a, b, score in read_pairs(path)]
    known = [(words[a], words[b], score) for a, b, score in pairs if a in words and b in words]
    cosines = [float(vectors[a] @ vectors[b]) for a, b, _ in known]
    return float(spearmanr(cosines, [score for _, _, score in known]).statistic)


def analogies(vectors: Any, words: dict[str, int], path: Path, most: int = 30_000) -> float:
    """Return the share of questions a : b = c : ? solved exactly, among the most frequent words (3CosAdd)."""
    import torch

    vectors = vectors[:most]
    lines = [line.lower().split() for line in path.read_text().splitlines() if not line.startswith(":")]
    known = [[words[word] for word in line] for line in lines if all(words.get(word, most) < most for word in line)]
    solved = 0
    for questions in torch.tensor(known).split(1000):
        a, b, c, expected = questions.T
        wanted = torch.nn.functional.normalize(vectors[b] - vectors[a] + vectors[c], dim=1)
        scores = wanted @ vectors.T
        for column in (a, b, c):
            scores[torch.arange(len(scores)), column] = -2
        solved += int((scores.argmax(1) == expected).sum())
    return solved / max(len(known), 1)


def score(weight: Any, words: list[str], options: argparse.Namespace) -> dict[str, float]:
    """Score vectors, most frequent word first, with files of similarity judgements and analogies."""
    import torch

    vectors = torch.nn.functional.normalize(torch.as_tensor(weight), dim=1)
    index: dict[str, int] = {}
    for row, word in enumerate(words):
        index.setdefault(word.lower(), row)
    scores = {path.stem: spearman(vectors, index, path) for path in options.pairs}
    return scores | {path.stem: analogies(vectors, index, path) for path in options.analogies}


def quality(options: argparse.Namespace) -> list[dict[str, Any]]:
    if options.corpus is None:
        raise Unavailable("no --corpus was given")
    import torch

    import embedtrain
    from embedtrain.device import gpu_problem

    torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))
    devices = ["cpu"]
    problem = gpu_problem("cuda")
    if problem is None:
        devices.insert(0, "cuda")
    else:
        say(f"  without a GPU: {problem}")
    results = []
    for dim, sample in ((100, 1e-3), (100, 1e-4), (300, 1e-3)):
        for seed in range(1, options.seeds + 1):
            for device in devices:
                estimator = embedtrain.Word2Vec(dim=dim, sample=sample, seed=seed, device=device, epochs=options.epochs)
                embeddings = estimator.fit(options.corpus)
                results.append(
                    {
                        "trainer": device,
                        "dim": dim,
                        "sample": sample,
                        "seed": seed,
                        "losses": [report["loss"] for report in embeddings.metrics],
                        "words_per_second": embeddings.config["results"]["words_per_second"],
                        "scores": score(embeddings.weight[2:], list(embeddings.words)[2:], options),
                    }
                )
                say(f"  {describe_quality(results[-1])}")
        if dim == 100 and sample == 1e-3:
            results += gensim_quality(options)
    if "cuda" in devices:
        for seed in range(1, 6):  # a rate at which hot rows would explode, were they not tamed
            embeddings = embedtrain.Word2Vec(seed=seed, alpha=0.05, device="cuda", epochs=1).fit(options.corpus)
            results.append({"trainer": "cuda, alpha 0.05", "seed": seed, "loss": embeddings.metrics[-1]["loss"]})
            say(f"  alpha 0.05, seed {seed}: loss {results[-1]['loss']:.3f}")
    return results


def gensim_quality(options: argparse.Namespace) -> list[dict[str, Any]]:
    try:
        from gensim.models import Word2Vec
    except ImportError:
        say("  gensim is not here")
        return []
    import lzma

    with tempfile.TemporaryDirectory() as folder:
        corpus = options.corpus
        if corpus.suffix == ".xz":
            corpus = Path(folder) / "corpus.txt"
            with lzma.open(options.corpus) as packed, corpus.open("wb") as plain:
                shutil.copyfileobj(packed, plain)
        model = Word2Vec(
            vector_size=100, window=5, negative=5, sample=1e-3, min_count=5, sg=1, workers=os.cpu_count() or 1
        )
        model.build_vocab(corpus_file=str(corpus))
        start = time.perf_counter()
        words = model.corpus_total_words
        model.train(
            corpus_file=str(corpus), total_words=words, total_examples=model.corpus_count, epochs=options.epochs
        )
        seconds = time.perf_counter() - start
    kept = sum(model.wv.get_vecattr(word, "count") for word in model.wv.index_to_key)
    result = {
        "trainer": "gensim",
        "dim": 100,
        "sample": 1e-3,
        "seed": 1,
        "words_per_second": kept * options.epochs / seconds,
        "scores": score(model.wv.vectors, model.wv.index_to_key, options),
    }
    say(f"  {describe_quality(result)}")
    return [result]


def describe_quality(row: dict[str, Any]) -> str:
    scores = "  ".join(f"{name} {value:.3f}" for name, value in row["scores"].items())
    return (
        f"{row['trainer']:6} D {row['dim']}  sample {row['sample']:g}  seed {row['seed']}  "
        f"{row['words_per_second'] / 1e6:7.1f} M words/s  {scores}"
    )


# ---- the whole


def machine() -> dict[str, Any]:
    import torch

    result: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cores": len(os.sched_getaffinity(0)),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        result |= {
            "gpu": properties.name,
            "multiprocessors": properties.multi_processor_count,
            "l2_bytes": getattr(properties, "L2_cache_size", None),
            "memory_bytes": properties.total_memory,
        }
    return result


def table(results: dict[str, Any], missing: dict[str, str]) -> str:
    """Sum up what was measured, a line for each thing asked of the GPU path."""
    lines = [f"GPU       {results['machine'].get('gpu', 'none')}, torch {results['machine']['torch']}"]
    if "tests" in results:
        lines.append(f"tests     {results['tests']['summary']}")
    if "memory" in results:
        for row in results["memory"]:
            if row["dim"] == 100 and row["addresses"] == "zipf" and row["work"] != "add, scalars":
                rate = row["bytes_per_second"] / 1e9
                lines.append(f"memory    V {row['vocabulary']:>9,}, zipf, {row['work']:14}: {rate:6.0f} GB/s")
    for row in results.get("speed", []):
        if row["default"]:
            lines.append(
                f"kernel    V {row['vocabulary']:>9,}, D {row['dim']}, sample {row['sample']:g}: "
                f"{row['words_per_second'] / 1e6:6.1f} M words/s, {row['row_bytes_per_word']:.0f} bytes of rows a word"
            )
    for name, row in results.get("billion", {}).items():
        lines.append(
            f"epoch     {row['tokens'] / 1e6:,.0f} M tokens, {name}: {row['training_seconds']:.2f} s "
            f"({row['words_per_second'] / 1e6:.0f} M words/s)"
        )
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in results.get("quality", []):
        if "scores" in row:
            groups.setdefault((row["dim"], row["sample"], row["trainer"]), []).append(row)
    for (dim, sample, trainer), rows in groups.items():
        scores = "  ".join(
            f"{name} {statistics.fmean(values):.3f} ({min(values):.3f}-{max(values):.3f})"
            for name in rows[0]["scores"]
            for values in [[row["scores"][name] for row in rows]]
        )
        rate = statistics.median(row["words_per_second"] for row in rows) / 1e6
        lines.append(f"quality   D {dim}, sample {sample:g}, {trainer:6} {rate:6.1f} M words/s  {scores}")
    lines += [f"{part:9} not run: {why.splitlines()[0]}" for part, why in missing.items()]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS)
    parser.add_argument("--rebuild", action="store_true")
    parser.add_argument("--tokens", type=int, default=40_000_000, help="of the synthetic text of part speed")
    parser.add_argument("--billion", type=int, default=1_000_000_000, help="tokens of part billion")
    parser.add_argument("--vocabulary", type=int, default=1_000_000, help="of part billion")
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--pairs", type=Path, nargs="*", default=[])
    parser.add_argument("--analogies", type=Path, nargs="*", default=[])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write everything that was measured to this file")
    options = parser.parse_args()
    parts = options.parts or [*DEFAULT_PARTS, *(["quality"] if options.corpus else [])]
    results: dict[str, Any] = {"command": " ".join(["python", "benchmarks/gpu.py", *sys.argv[1:]])}
    missing: dict[str, str] = {}
    for part in (part for part in PARTS if part in parts):
        say(f"{part}:")
        try:
            results[part] = globals()[part](options)
        except Unavailable as why:
            missing[part] = str(why)
            say(f"  not run: {why}")
        if part == "build" and part in missing:
            break
        if options.json is not None:  # after each part: what is measured is kept, whatever comes
            options.json.write_text(json.dumps(results | {"missing": missing}, indent=2) + "\n")
    results["machine"] = machine()
    if options.json is not None:
        options.json.write_text(json.dumps(results | {"missing": missing}, indent=2) + "\n")
    print(table(results, missing))
    return 1 if "tests" in missing or "build" in missing else 0


if __name__ == "__main__":
    sys.exit(main())
