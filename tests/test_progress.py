"""Progress: lines off a terminal, a bar on one, nothing when quiet, never on standard output."""

import io
import re
import subprocess
import sys

import pytest

from embedtrain import progress
from embedtrain.progress import Progress


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "_now", clock)
    return clock


@pytest.fixture(autouse=True)
def terminal_of_100_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("NO_COLOR", raising=False)


def plain(text: str) -> str:
    """Take the control sequences of a terminal out of the text."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def count_for(shown: Progress, clock: Clock, seconds: int, total: int | None) -> None:
    """Read 10 MB a second, reported ten times a second."""
    with shown.counting() as update:
        for tenth in range(seconds * 10 + 1):
            update(tenth * 1_000_000, total)
            clock.now += 0.1


def test_lines_of_counting(clock: Clock) -> None:
    stream = io.StringIO()
    count_for(Progress(stream), clock, 12, 120_000_000)
    *middle, last = stream.getvalue().splitlines()
    assert len(middle) == 2  # after 5 and 10 seconds
    assert re.fullmatch(r"counting  4\d%: 5\d\.\d MB of 120\.0 MB, 10\.0 MB/s, 0:0[78] left", middle[0])
    assert re.fullmatch(r"counted 120\.0 MB in 12\.1 s, 9\.9 MB/s", last)


def test_lines_of_counting_without_a_total(clock: Clock) -> None:
    stream = io.StringIO()
    count_for(Progress(stream), clock, 6, None)
    assert "%" not in stream.getvalue()
    assert "left" not in stream.getvalue()
    assert re.search(r"^counting: 5\d\.\d MB, 10\.0 MB/s$", stream.getvalue(), re.M)


def test_lines_of_what_follows_the_counting(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress(stream).counting() as update:
        update(90_000_000, 90_000_000)
        for tenth in range(120):
            update.encoding(tenth / 240)
            clock.now += 0.1
    *middle, last = stream.getvalue().splitlines()
    assert len(middle) == 2  # after 5 and 10 seconds
    assert re.fullmatch(r"encoding  2[01]%: 0:(19|20) left", middle[0])
    assert re.fullmatch(r"encoding  4[12]%: 0:(14|15) left", middle[1])
    assert last == "counted 90.0 MB in 12.0 s, 7.5 MB/s"


def test_lines_of_training(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress(stream).training(total_positions=100_000_000, epochs=5) as update:
        for second in range(1, 21):
            clock.now += 1
            update(second * 5_000_000, loss=2.5 - second / 20, rate=0.025 * (1 - second / 20), words_per_second=5e6)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "epoch 2/5  25%: 5 M words/s, loss 2.250, rate 0.0188, 0:15 left"
    assert lines[1] == "epoch 3/5  50%: 5 M words/s, loss 2.000, rate 0.0125, 0:10 left"
    assert lines[3] == "epoch 5/5 100%: 5 M words/s, loss 1.500, rate 0.0000, 0:00 left"
    assert len(lines) == 5
    assert lines[-1] == "trained 5 epochs in 20.0 s, 5 M words/s, final loss 1.500"


def test_words_per_second_are_smoothed(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress(stream).training(total_positions=10**9, epochs=1) as update:
        for step in range(101):  # jumps between 4 and 6 million every tenth of a second
            update(step, loss=1.0, rate=0.01, words_per_second=4e6 if step % 2 else 6e6)
            clock.now += 0.1
    later = [float(speed) for speed in re.findall(r"([\d.]+) M words/s", stream.getvalue())]
    assert all(4.8 <= speed <= 5.4 for speed in later)
    assert len(later) >= 1


def test_bar_on_a_terminal(clock: Clock) -> None:
    stream = Terminal()
    shown = Progress(stream)
    with shown.training(total_positions=1000, epochs=2) as update:
        update(500, loss=1.25, rate=0.0125, words_per_second=812_345.0)
        clock.now += 1
        shown.note("a [bold]note[/bold]")
    drawn = plain(stream.getvalue())
    assert re.search(r"epoch 1/2 .*[━╸╺].* 50% 812 k words/s {2}loss 1\.250 {2}rate 0\.0125 {2}0:01 left", drawn)
    assert "a [bold]note[/bold]" in drawn  # no markup in a user's words
    assert drawn.rstrip().endswith("trained 2 epochs in 1.0 s, 500 words/s, final loss 1.250")


def test_bar_of_counting_fits_a_narrow_terminal(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    stream = Terminal()
    with Progress(stream).counting() as update:
        clock.now += 1
        update(12_000_000_000, 70_000_000_000)
    drawn = plain(stream.getvalue())
    assert re.search(r"counting .*17% 12000\.0 MB of 70000\.0 MB {2}12000\.0 MB/s {2}0:05 left", drawn)


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["lines", "bar"])
def test_a_pass_that_fails_is_not_summed_up(stream: io.StringIO) -> None:
    shown = Progress(stream)

    def interrupted() -> None:
        with shown.counting() as update:
            update(1, 2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    shown.note("stopped")
    assert "counted" not in stream.getvalue()
    assert plain(stream.getvalue()).rstrip().endswith("stopped")


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    with Progress(stream).counting() as update:
        update(1_000_000, 1_000_000)
    assert "\x1b" not in stream.getvalue()
    assert stream.getvalue().count("\n") == 1  # the summary: a pass this short needs no other line


def test_quiet_prints_nothing() -> None:
    stream = Terminal()
    shown = Progress(stream, quiet=True)
    with shown.counting() as count:
        count(1, 2)
    with shown.training(1, 1) as update:
        update(1, loss=1.0, rate=0.1, words_per_second=1.0)
    shown.note("a note")
    assert stream.getvalue() == ""


def test_standard_output_stays_clean_and_nothing_heavy_is_imported() -> None:
    script = """
import sys
from embedtrain.progress import Progress
shown = Progress()
with shown.counting() as update:
    update(1, 2)
shown.note("a note")
assert not {"torch", "rich"} & set(sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == ""
    assert ran.stderr.splitlines()[-1] == "a note"
