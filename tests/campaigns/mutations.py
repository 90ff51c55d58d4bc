"""Spoil files: bytes anywhere, and the values of JSON and of headers."""

from __future__ import annotations

import copy
import json
import random
import re
from typing import Any

HOSTILE_NUMBERS = (
    "0", "-1", "1e300", "-1e300", "1e-300", "5e-324", "NaN", "Infinity", "9" * 400, "9" * 5000, "1" + "0" * 26,
    "4294967295", "9223372036854775807", "-2147483648", "0.5", "1e400",
)  # fmt: skip
HOSTILE_VALUES: tuple[Any, ...] = (
    None, True, "", " ", "/", "..", "../" * 300, "a" * 5000, "a/" * 2500, "/etc/passwd", "/dev/zero", "\x1b[31m", "\0",
    "\u202e", "ü" * 300, "\ud800", [], {}, [[]], [None], [1, 2], {"a": {}}, [[1e300] * 4] * 4, [[0] * 4] * 4,
    [["a"] * 4] * 4,    [[1, 0, 0, 1e300], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
)  # fmt: skip
_NUMBER = re.compile(rb"-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_MARK = "hostile-number"


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Spoil some bytes: most of what a disk, a copy or an editor does, and some of what an enemy does."""
    for _ in range(rng.choice((1, 1, 2, 5))):
        place, length = rng.randrange(len(data) + 1), rng.choice((1, 1, 2, 4, 8, 64))
        way = rng.randrange(8)
        if way == 0:
            data = data[:place]
        elif way == 1:
            data = data[:place] + data[place + length :]
        elif way == 2:
            data = data[:place] + rng.randbytes(length) + data[place:]
        elif way == 3:
            data = data[:place] + data[place : place + length] * rng.choice((2, 1000)) + data[place + length :]
        elif way == 4:
            data = data[:place] + rng.choice((b"\0", b"\xff", b"\x7f", b"[", b"{")) * length + data[place + length :]
        elif way == 5 and (numbers := list(_NUMBER.finditer(data[:4096]))):
            begin, end = rng.choice(numbers).span()
            data = data[:begin] + rng.choice(HOSTILE_NUMBERS).encode() + data[end:]
        elif way == 6 and data:
            bit = bytes([data[place % len(data)] ^ 1 << rng.randrange(8)])
            data = data[: place % len(data)] + bit + data[place % len(data) + 1 :]
        else:
            data = data[:place] + rng.randbytes(min(length, len(data) - place)) + data[place + length :]
    return data


def mutated_json(data: bytes, rng: random.Random) -> bytes:
    """Replace values of a JSON document, take keys out, nest it; the result is mostly JSON still."""
    if rng.random() < 0.02:
        return rng.choice((b"[" * 10**5, b'{"a":' * 10**5, b"[" * 10**5 + b"]" * 10**5))
    document = json.loads(data)
    for _ in range(rng.choice((1, 1, 2))):
        holder = _some_holder(document, rng)
        if holder is None:
            break
        key = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
        way = rng.random()
        if way < 0.1:
            del holder[key]
        elif way < 0.45:
            holder[key] = _MARK
        elif way < 0.5 and isinstance(holder, dict):
            holder["a" * rng.choice((1, 5000))] = holder.pop(key)
        else:
            holder[key] = copy.deepcopy(rng.choice(HOSTILE_VALUES))
    return json.dumps(document).replace(f'"{_MARK}"', rng.choice(HOSTILE_NUMBERS)).encode()


def _some_holder(document: Any, rng: random.Random) -> Any:
    """Choose a dict or list in the document that is not empty."""
    found, rest = [], [document]
    while rest:
        value = rest.pop()
        if isinstance(value, (dict, list)) and value:
            found.append(value)
            rest.extend(value.values() if isinstance(value, dict) else value)
    return rng.choice(found) if found else None
