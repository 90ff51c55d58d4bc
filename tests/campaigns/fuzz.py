"""Spoil the files of every reader, and see that it reads them or says in a line what is wrong.

    make fuzz SECONDS=1800

A finding is another exception, a wait of over 10 seconds, or over 2 GiB of memory. Its file is kept in
`tests/campaigns/findings/`, where the tests read it again from then on.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import faulthandler
import hashlib
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from mutations import mutated, mutated_json
from readers import Reader, readers

from lift3d_cli.errors import Lift3dError

FINDINGS = Path(__file__).parent / "findings"
HANG_S, MEMORY_BYTES = 10, 2 * 2**30


class Hang(BaseException):
    """A reader took too long; no `except Exception` may swallow it."""


def problem(reader: Reader) -> str | None:
    """Read a file; return what is wrong with how that ends, None if nothing is."""

    def stop(*_) -> None:
        raise Hang

    before = _peak_bytes()
    signal.signal(signal.SIGALRM, stop)
    signal.alarm(HANG_S)
    faulthandler.dump_traceback_later(6 * HANG_S, exit=True)  # a hang in C
    try:
        reader.read()
    except Lift3dError as error:
        return None if str(error).strip() else "an error without a text"
    except (Exception, Hang) as error:
        return "".join(traceback.format_exception(error)[-3:]).strip() or type(error).__name__
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()
    grown = _peak_bytes() - before
    return f"takes {grown / 2**30:.1f} GiB" if grown > MEMORY_BYTES else None


def fuzz(seconds: float, seed: int, only: str, folder: Path) -> tuple[Counter, dict[Path, str]]:
    """Spoil each reader's file for its share of the time; return how often, and what was found, with the file."""
    rng, counts, found = random.Random(seed), Counter(), {}
    every = {name: reader for name, reader in readers(folder).items() if only in name}
    for name, reader in every.items():
        whole = reader.path.read_bytes()
        if trouble := problem(reader):
            raise RuntimeError(f"{name}: the good file is not read: {trouble}")
        end, seen = time.monotonic() + seconds / len(every), set()
        while time.monotonic() < end or not counts[name]:
            spoil = mutated_json if reader.is_json and rng.random() < 0.7 else mutated
            data = spoil(whole, rng)
            reader.path.write_bytes(data)
            trouble = problem(reader)
            counts[name] += 1
            if trouble and trouble.splitlines()[-1][:60] not in seen:
                seen.add(trouble.splitlines()[-1][:60])
                found[kept(name, reader.path, data)] = trouble
        reader.path.write_bytes(whole)
    return counts, found


def kept(name: str, path: Path, data: bytes) -> Path:
    """Keep a file that a reader stumbles over, under a name that tells the reader."""
    FINDINGS.mkdir(exist_ok=True)
    file = FINDINGS / f"{name}--{hashlib.sha256(data).hexdigest()[:8]}{path.suffix}"
    file.write_bytes(data)
    return file


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--only", default="", help="readers with this in their name")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    os.environ["HF_HUB_OFFLINE"] = "1"
    stderr = os.dup(2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # OpenEXR prints what it raises
    try:
        with tempfile.TemporaryDirectory(prefix="lift3d-fuzz-") as folder:
            counts, found = fuzz(args.seconds, args.seed, args.only, Path(folder))
    finally:
        os.dup2(stderr, 2)
    for path, trouble in found.items():
        print(f"{path.name}: {trouble}\n")
    print(f"fuzz --seed {args.seed}: {sum(counts.values())} files for {len(counts)} readers, {len(found)} findings")
    least = min(counts, key=counts.__getitem__)
    print(f"fewest: {counts[least]} for {least}; peak memory {_peak_bytes() / 2**20:.0f} MiB")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
