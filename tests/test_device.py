"""Which device is trained on, what is said when it cannot be had, and the diagnosis ``python -m embedtrain``."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import embedtrain
from embedtrain import __main__ as diagnosis
from embedtrain import device, fit
from embedtrain.errors import EmbedtrainError
from embedtrain.native import core

H100 = ("NVIDIA H100 80GB HBM3", 9, 0, 85_000_000_000)
READY = {"driver": 13010, "runtime": 13000, "devices": [H100], "error": ""}

# What is missing (toolkit, the driver's report), and the words that must say so.
MISSING = [
    (None, None, "no CUDA toolkit (nvcc) was found when it was installed; install the toolkit"),
    ("13.0.88", {**READY, "driver": 0, "devices": []}, "there is no NVIDIA driver on this machine; install it"),
    ("13.0.88", {**READY, "driver": 12080}, "driver is too old: it knows CUDA 12.8, embedtrain was built with 13.0;"),
    ("13.0.88", {**READY, "devices": []}, "sees no GPU (none is there); check nvidia-smi and CUDA_VISIBLE_DEVICES"),
    ("13.0.88", {**READY, "devices": [], "error": "device busy"}, "sees no GPU (device busy)"),
]


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make the core believe in a toolkit, a driver and GPUs."""

    def pretend(toolkit: str | None, report: dict[str, Any] | None) -> None:
        monkeypatch.setattr(core, "cuda_toolkit", toolkit)
        monkeypatch.setattr(core, "cuda_report", lambda: report, raising=False)  # a build without CUDA has none

    return pretend


@pytest.mark.parametrize(("toolkit", "report", "words"), MISSING)
def test_cuda_says_which_part_is_missing(
    cuda: Any, toolkit: str | None, report: Any, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cuda(toolkit, report)
    for name in ("cuda", "cuda:1"):
        with pytest.raises(EmbedtrainError) as raised:
            device.resolve(name)
        message = str(raised.value)
        assert message.startswith(f"device {name}: ")
        assert words in message
        assert message.endswith("; or train with --device cpu")
        assert "\n" not in message
    # From the estimator, before the corpus is looked at; and in the diagnosis.
    with pytest.raises(EmbedtrainError, match="device cuda: "):
        embedtrain.Word2Vec(device="cuda").fit("no-such-file")
    assert diagnosis.main() == 0
    assert words in capsys.readouterr().out


def test_cuda_is_ready(cuda: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    cuda("13.0.88", READY)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device.cuda_problem() is None
    assert diagnosis.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-4:] == [
        "cuda toolkit  13.0.88",
        "cuda driver   13.1",
        "cuda:0        NVIDIA H100 80GB HBM3, sm_90, 79 GiB",
        "cuda          ready",
    ]


def test_the_real_report_has_what_is_read() -> None:
    assert device.cuda_problem() is None or isinstance(device.cuda_problem(), str)
    if core.cuda_toolkit is not None:
        assert core.cuda_report().keys() >= READY.keys()


@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_the_processor_needs_nothing(name: str) -> None:
    assert device.resolve(name) == "cpu"


def test_every_kernel_can_be_asked_for_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    available = core.available_kernels()
    assert available[-1] == "portable"
    for name in available:
        monkeypatch.setenv("EMBEDTRAIN_ISA", name)
        assert device.resolve("auto") == "cpu"
        assert core.kernel_name() == name
    monkeypatch.setenv("EMBEDTRAIN_ISA", "AVX9000")
    with pytest.raises(EmbedtrainError, match=f"asks for AVX9000, but .* run {', '.join(available)}; set it to one"):
        device.resolve("auto")


# --- the diagnosis -------------------------------------------------------------------------------------------------


def test_diagnosis() -> None:
    result = subprocess.run([sys.executable, "-m", "embedtrain"], capture_output=True, text=True, check=True)
    assert result.stderr == ""
    lines = {line[:13].strip(): line[14:] for line in result.stdout.splitlines()}
    assert lines["embedtrain"] == embedtrain.__version__
    assert lines["torch"] == importlib.metadata.version("torch")
    assert lines["kernel"].startswith(f"{core.kernel_name()} (of {', '.join(core.available_kernels())})")
    assert {"python", "processor", "cuda toolkit", "cuda"} <= lines.keys()


def test_diagnosis_of_an_old_processor_without_torch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(core, "available_kernels", lambda: ["portable"])
    monkeypatch.setenv("EMBEDTRAIN_ISA", "portable")
    assert diagnosis.main() == 0
    shown = capsys.readouterr().out
    assert "torch         not installed; pip install torch\n" in shown
    assert "kernel        portable (of portable); this processor has no AVX2, so training is several times" in shown


def test_diagnosis_of_a_kernel_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EMBEDTRAIN_ISA", "mmx")
    assert diagnosis.main() == 2
    assert "native core   EMBEDTRAIN_ISA asks for mmx, but" in capsys.readouterr().out


def test_core_that_is_not_built(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    monkeypatch.delattr(embedtrain, "_native")
    monkeypatch.delattr(embedtrain, "native")
    monkeypatch.delitem(sys.modules, "embedtrain.native")
    monkeypatch.setitem(sys.modules, "embedtrain._native", None)
    words = "the native core of embedtrain is not built for this Python"
    assert diagnosis.main() == 2
    assert f"native core   {words}" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert fit.main(["no-such-file"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"embedtrain: {words}")
    assert "pip install" in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_names_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda path: "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t: fpu\n")
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert device.machine() == "AMD EPYC, 2 cores, x86_64"

    def fail(path: Path) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", fail)
    monkeypatch.setattr("os.cpu_count", lambda: None)
    monkeypatch.setattr("platform.processor", lambda: "")
    assert device.machine() == "1 core, x86_64"
