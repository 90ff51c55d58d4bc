"""Results of `eval --json` as HTML tables: a bar behind each number, the best method in bold."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape

# Whether higher or lower is better, by the words in a metric's name; others are shown without a judgement.
_MORE = {"psnr", "ssim", "iou", "miou", "accuracy", "map", "coverage", "similarity", "clip"}
_LESS = {"lpips", "mse", "rmse", "error", "chroma", "relative"}
# Rows that are bounds or means of the others, and never "the best".
_NO_RIVALS = {"mean", "rendered-colour", "oracle", "crossed-oracle"}


def metrics_html(name: str, document: object) -> str:
    """Format all tables of one document, under its name."""
    return f"<h3>{escape(name)}</h3>" + "".join(_blocks("", document))


def _blocks(title: str, value: object) -> Iterator[str]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        rows = {str(row.get("name", n)): row for n, row in enumerate(value) if isinstance(row, Mapping)}
        if rows:
            yield table(title, rows, is_comparison=False)
        return
    if not isinstance(value, Mapping):
        return
    plain = {key: item for key, item in value.items() if isinstance(item, (int, float, str)) and item != ""}
    if plain and not _is_table(value):
        facts = " · ".join(f"{_words(key)} <b>{escape(_number(item))}</b>" for key, item in plain.items())
        yield f"<p>{_heading(title)}{facts}</p>"
    if _is_table(value):
        yield table(title, value, is_comparison=True)
        return
    for key, item in value.items():
        yield from _blocks(f"{title} · {_words(key)}" if title else _words(key), item)


def _is_table(value: Mapping[str, object]) -> bool:
    rows = list(value.values())
    return len(rows) > 1 and all(isinstance(row, Mapping) and _numbers(row) == dict(row) for row in rows)


def _numbers(row: Mapping[str, object]) -> dict[str, float]:
    is_number = {key: isinstance(x, (int, float)) and not isinstance(x, bool) for key, x in row.items()}
    return {key: x for key, x in row.items() if is_number[key] or x is None}


def table(title: str, rows: Mapping[str, Mapping[str, object]], is_comparison: bool) -> str:
    """Format a table of rows of numbers.

    Args:
        title: heading, or "".
        rows: rows by name; what is not a number is left out.
        is_comparison: rows are methods, the best of which is marked.
    """
    numbers = {name: _numbers(row) for name, row in rows.items()}
    columns = list(dict.fromkeys(key for row in numbers.values() for key in row))
    if not columns:
        return ""
    finite = {key: [abs(x) for row in numbers.values() if _is_finite(x := row.get(key))] for key in columns}
    best = {key: _best(key, numbers) for key in columns} if is_comparison else {}
    head = "".join(f"<th>{_words(key)}{_arrow(key)}</th>" for key in columns)
    body = ""
    for name, row in numbers.items():
        cells = ""
        for key in columns:
            x = row.get(key)
            share = 100 * abs(x) / max(max(finite[key]), 1e-12) if _is_finite(x) else 0
            mark = ' class="best"' if best.get(key) == name else ""
            cells += f'<td{mark} style="--share:{share:.0f}%">{_number(x)}</td>'
        body += f"<tr><th>{escape(name)}</th>{cells}</tr>"
    caption = f"<h3>{title}</h3>" if title else ""
    inner = f"<thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody>"
    return f'{caption}<div class="scroll"><table>{inner}</table></div>'


def _best(key: str, rows: Mapping[str, Mapping[str, float]]) -> str | None:
    way = _way(key)
    rivals = {n: row[key] for n, row in rows.items() if n not in _NO_RIVALS and _is_finite(row.get(key))}
    return max(rivals, key=lambda name: way * rivals[name]) if way and len(rivals) > 1 else None


def _way(key: str) -> int:
    words = set(re.split(r"[^a-z]+", key.lower()))
    return -1 if words & _LESS else 1 if words & _MORE else 0


def _arrow(key: str) -> str:
    return {1: " ↑", -1: " ↓", 0: ""}[_way(key)]


def _is_finite(x: object) -> bool:
    return isinstance(x, (int, float)) and math.isfinite(x)


def _number(x: object) -> str:
    if isinstance(x, float):
        return f"{x:.4g}" if math.isfinite(x) else "–"
    return "–" if x is None else str(x)


def _words(key: object) -> str:
    return escape(str(key).replace("_", " "))


def _heading(title: str) -> str:
    return f"{title}: " if title else ""
