"""The pictures of the model card, as SVG: the curves of a training run, and how often words occur.

Written by hand, because they are drawn at the end of every training run: matplotlib would take a second of it, and on a
fresh machine many more for its cache of fonts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import numpy.typing as npt

_WIDTH, _PANEL = 720, 250
# Around a panel, in pixels: room for the labels of its axes.
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 40, 52
_COLOURS = ("#2563eb", "#d9480f", "#0f8a5f", "#9333ea", "#b58900", "#c2255c")
_INK, _GREY, _GRID = "#1f2937", "#6b7280", "#e5e7eb"
_DOTS = 25
# What XML cannot hold.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class _Axis:
    """Maps values to pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        scale = math.log10 if self.log else float
        share = (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return round values: powers of ten, or a few multiples of 1, 2, 2.5 or 5 times one."""
        if self.log:
            powers = range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
            return [10.0**power for power in powers]
        rough = (self.high - self.low) / 6
        power = 10 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
        return [index * step for index in range(math.ceil(self.low / step), math.floor(self.high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class _Panel:
    """A diagram: lines of points (x, y), each with its name; both axes linear or logarithmic."""

    title: str
    x_label: str
    lines: Mapping[str, Points]
    legend: bool = False
    log: bool = False
    marks: Sequence[tuple[float, float, str]] = ()
    """Points with words beside them."""


def curve(metrics: Sequence[Mapping[str, Any]]) -> str | None:
    """Draw the loss, and what was evaluated during training, over the epochs; None if there is nothing to draw.

    :param metrics: the reports of the training run, with ``position``, ``epoch``, ``loss`` and perhaps ``evaluation``,
        a number per test set.
    """
    reports = [report for report in metrics if report.get("position") and report.get("epoch")]
    if not reports:
        return None
    epoch = reports[-1]["position"] / reports[-1]["epoch"]  # in words
    losses = [
        (report["position"] / epoch, report["loss"])
        for report in reports
        if report.get("loss") is not None and math.isfinite(report["loss"])
    ]
    scores: dict[str, list[tuple[float, float]]] = {}
    for report in reports:
        for name, score in (report.get("evaluation") or {}).items():
            scores.setdefault(name, []).append((report["position"] / epoch, score))
    scores = {name: points for name, points in scores.items() if len(points) > 1}
    if len(losses) < 2:
        return None
    panels = [_Panel("Loss", "epochs", {"loss": losses})]
    if scores:
        panels.append(_Panel("Evaluation", "epochs", scores, legend=True))
    return _draw(panels, "Curves of the training")


def frequencies(words: Sequence[str], counts: npt.NDArray[np.int64]) -> str | None:
    """Draw how often words occur over their rank, both on a logarithmic scale; None for fewer than two words."""
    order = np.argsort(-counts, kind="stable")
    order = order[counts[order] > 0]
    if len(order) < 2:
        return None
    ranks = np.unique(np.geomspace(1, len(order), 200).round().astype(np.int64))
    points = [(float(rank), float(counts[order[rank - 1]])) for rank in ranks]
    marked = [10**power for power in range(math.floor(math.log10(len(order))) + 1)]
    marks = [(float(rank), float(counts[order[rank - 1]]), words[order[rank - 1]]) for rank in marked]
    panel = _Panel("How often words occur", "rank of the word", {"words": points}, log=True, marks=marks)
    return _draw([panel], "Word frequencies")


def _draw(panels: Sequence[_Panel], name: str) -> str:
    height = len(panels) * _PANEL
    svg = ET.Element(
        "svg", xmlns="http://www.w3.org/2000/svg", width=str(_WIDTH), height=str(height),
        viewBox=f"0 0 {_WIDTH} {height}", role="img",
    )  # fmt: skip
    svg.set("font-family", "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif")
    svg.set("font-size", "12")
    ET.SubElement(svg, "title").text = name
    # A background of its own: pages are dark or light whatever the system is.
    ET.SubElement(svg, "rect", width="100%", height="100%", rx="8", fill="#ffffff")
    for place, panel in enumerate(panels):
        _draw_panel(svg, panel, place * _PANEL)
    ET.indent(svg, " ")
    return ET.tostring(svg, encoding="unicode") + "\n"


def _draw_panel(svg: ET.Element, panel: _Panel, top: float) -> None:
    xs, ys = zip(*(point for points in panel.lines.values() for point in points), strict=True)
    margin = 0 if panel.log else 0.06 * (max(ys) - min(ys)) or 0.01
    # Beyond the last mark there is room for its word.
    x = _Axis(min(xs) if panel.log else 0, 2 * max(xs) if panel.log else max(xs), _LEFT, _WIDTH - _RIGHT, panel.log)
    low, high = (min(ys), 2 * max(ys)) if panel.log else (min(ys) - margin, max(ys) + margin)
    y = _Axis(low, high, top + _PANEL - _BOTTOM, top + _TOP, panel.log)
    _text(svg, _LEFT, top + 22, panel.title, _INK, weight="600")
    for tick in y.ticks():
        _line(svg, (x.start, y(tick)), (x.end, y(tick)), _GRID)
        _text(svg, x.start - 8, y(tick) + 4, _number(tick), _GREY, anchor="end")
    for tick in x.ticks():
        _line(svg, (x(tick), y.start), (x(tick), y.start + 4), _GREY)
        _text(svg, x(tick), y.start + 18, _number(tick), _GREY, anchor="middle")
    _line(svg, (x.start, y.start), (x.end, y.start), _GREY)
    _text(svg, x.end, y.start + 36, panel.x_label, _GREY, anchor="end")
    legend = x.end
    for (name, points), colour in reversed(list(zip(panel.lines.items(), _COLOURS * len(panel.lines), strict=False))):
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points)
        ET.SubElement(svg, "polyline", points=path, fill="none", stroke=colour).set("stroke-width", "2")
        if len(points) <= _DOTS:
            for a, b in points:
                _dot(svg, x(a), y(b), colour)
        if panel.legend:
            _text(svg, legend, top + 22, name, colour, anchor="end", weight="600")
            legend -= 8 * len(name) + 16
    for a, b, word in panel.marks:
        _dot(svg, x(a), y(b), _COLOURS[0])
        _text(svg, x(a) + 7, y(b) - 5, word, _INK)


def _text(svg: ET.Element, x: float, y: float, text: str, fill: str, anchor: str = "start", weight: str = "") -> None:
    element = ET.SubElement(svg, "text", x=f"{x:.1f}", y=f"{y:.1f}", fill=fill)
    if anchor != "start":
        element.set("text-anchor", anchor)
    if weight:
        element.set("font-weight", weight)
    element.text = _NOT_XML.sub("\ufffd", text if len(text) <= 24 else text[:23] + "…")


def _line(svg: ET.Element, start: tuple[float, float], end: tuple[float, float], stroke: str) -> None:
    (x1, y1), (x2, y2) = start, end
    ET.SubElement(svg, "line", x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}", stroke=stroke)


def _dot(svg: ET.Element, x: float, y: float, fill: str) -> None:
    ET.SubElement(svg, "circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r="3.5", fill=fill)


def _number(value: float) -> str:
    """Spell a number shortly: 0.25, 20, 5k, 10M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.4g}{unit}"
    return f"{value:.4g}"
