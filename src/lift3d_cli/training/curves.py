"""The learning curves of a training: `curves.csv`, and `curves.png` where matplotlib is installed."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from lift3d_cli.machine.atomic import write_atomic

CURVES = "curves.csv"
"""In the folder of a run."""


def append_curves(path: Path, row: Mapping[str, float]) -> None:
    """Add a row to `curves.csv`, and redraw `curves.png` beside it if matplotlib is installed."""
    rows = [r for r in read_curves(path) if r["step"] < row["step"]] if path.exists() else []
    rows.append({key: round(float(value), 5) for key, value in row.items()})
    text = io.StringIO()
    writer = csv.DictWriter(text, list(row), extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue().encode())
    try:
        draw_curves(rows, path.with_suffix(".png"))
    except ImportError:
        return  # the CSV has it all; `pip install lift3d-cli[train]` brings matplotlib


def read_curves(path: Path) -> list[dict[str, float]]:
    """Read the rows of `curves.csv`."""
    with path.open(newline="") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def draw_curves(rows: list[dict[str, float]], path: Path) -> None:
    """Plot each column over the steps in a panel of its own, as a PNG.

    Raises:
        ImportError: without matplotlib.
    """
    from matplotlib.figure import Figure

    columns = [name for name in rows[-1] if name not in ("step", "minutes")]
    figure = Figure(figsize=(3.2 * len(columns), 2.6), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns, strict=True):
        points = [(row["step"], row[name]) for row in rows if name in row]
        axes.plot(*zip(*points, strict=True), marker="." if len(points) < 40 else "")
        axes.set(title=name, xlabel="step")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    write_atomic(path, buffer.getvalue())
