"""What all tests share."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import settings

# The first example of a test may load the core or start threads, and machines differ: a time limit says nothing here.
# The examples are the same in every run, so that a failure is the change's.
settings.register_profile("embedtrain", deadline=None, derandomize=True)
settings.load_profile("embedtrain")

# A job in the background or under nohup ignores these, and so would all that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run tests of several processes first: they wait a lot, and at the end there would be nothing beside them."""
    items.sort(key=lambda item: item.path.name != "test_distributed.py")


@pytest.fixture(autouse=True)
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep encoded corpora that tests put on disk out of the home of who runs them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True)
def auto_is_the_cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with a GPU, too, tests that do not ask for one train on the CPU."""
    if request.module.__name__ not in ("test_cuda", "test_device", "test_gpu"):
        from embedtrain import device

        monkeypatch.setattr(device, "gpu_problem", lambda *_: "tests train on the CPU")


@pytest.fixture
def refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[Callable[[Sequence[str]], int], Sequence[str]], str]:
    """Run a command, in ``tmp_path``, that is to refuse its input: with exit code 2 and a line that is returned.

    It must not write anything.
    """
    monkeypatch.chdir(tmp_path)

    def run(main: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> str:
        before = sorted(tmp_path.rglob("*"))
        assert main(arguments) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("embedtrain: ")
        assert sorted(tmp_path.rglob("*")) == before
        return error

    return run
