"""Cases of bad input by name, and how a JSON file is spoiled."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

Case = Callable[..., list[str]]


class Cases(dict[str, Case]):
    """Cases by name. Itself the decorator that takes one in: it spoils something in the folder and returns the command
    that must then fail.
    """

    def __call__(self, function: Case) -> Case:
        self[function.__name__.replace("_", " ")] = function
        return function


def edit_json(path: Path, change: Callable[[dict], None]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
