"""What all figures are made with: panels, curves, the range of y, a legend, a file."""

from collections.abc import Sequence
from math import ceil
from pathlib import Path

import numpy as np

from common.files import replacing


def panels(counts: Sequence[int], columns: int = 4, width: float = 3.3, height: float = 2.9):
    """A figure and, for each of `counts`, a list of so many axes in rows of their own."""
    from matplotlib.figure import Figure

    across = max(1, min(columns, max(counts)))
    rows = [ceil(count / across) for count in counts]
    size = (max(width * across, 6), 1.1 + height * sum(rows))
    figure, found, start = Figure(figsize=size, layout="constrained"), [], 0
    for count, n in zip(counts, rows, strict=True):
        places = range(start * across + 1, start * across + 1 + count)
        found.append([figure.add_subplot(sum(rows), across, place) for place in places])
        start += n
    for axes in figure.axes:
        axes.grid(alpha=0.3)
    return figure, found


def curve(axes, x, y, style: dict) -> None:
    """A line, if there is anything to draw; whole numbers on the x axis."""
    if len(x):
        axes.plot(x, y, **{"markersize": 4} | style)
        axes.xaxis.get_major_locator().set_params(integer=True)


def fit(axes: Sequence, low: float = 0, high: float | None = 1, least: float = 0.1) -> None:
    """One y range for all `axes`: what they show with a margin, `least` tall, in low to high.

    Without a least height, noise on the last digits would look like a slope.
    """
    drawn = [line.get_ydata() for panel in axes for line in panel.lines]
    values = np.concatenate([np.asarray(y, dtype=float) for y in drawn]) if drawn else np.array([])
    values, high = values[np.isfinite(values)], np.inf if high is None else high
    if not len(values):
        return
    margin = max(0.06 * np.ptp(values), (least - np.ptp(values)) / 2)
    bottom = max(low, min(values.min() - margin, high - least))
    top = min(high, max(values.max() + margin, low + least))
    edge = 0.02 * (top - bottom)  # what lies at the end of the range is not hidden by the frame
    bottom, top = min(bottom, values.min() - edge), max(top, values.max() + edge)
    for panel in axes:
        panel.set_ylim(bottom, top)


def legend(figure) -> None:
    """One for all panels, below them, where it hides no curve; as many columns as fit."""
    pairs = (zip(*axes.get_legend_handles_labels(), strict=True) for axes in figure.axes)
    entries = {label: handle for panel in pairs for handle, label in panel}
    if entries:
        fits = int(figure.get_figwidth() * 12 / (max(map(len, entries)) + 7))
        figure.legend(entries.values(), entries, loc="outside lower center", fontsize=8,
                      ncols=max(1, min(fits, len(entries))))  # fmt: skip


def save(figure, *paths: Path) -> None:
    """Write `figure` as PNG or PDF, by the ending; the same bytes each time."""
    for path in paths:
        kind = path.suffix[1:]
        undated = {"CreationDate": None} if kind == "pdf" else None
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=150, format=kind, metadata=undated)
