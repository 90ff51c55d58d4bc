"""Kill encode, render and decode at random moments, alone and beside others, also on a full disk; resume; compare.

    make soak KILLS=300

After each kill, every file that is there must be, bit by bit, what an uninterrupted run makes; at the end, all of them
must be there, and no temporary file. Exits with 1 if not, and prints where the folder is kept.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import plane_world

FAST = ["--planes", "8", "--samples", "2", "--views", "2"]
STEPS = {
    "encode": ["encode", "scene", "--model", "rgb", "--model", "../patches.py:Patches"],
    "path": ["path", "scene", "orbit", "--frames", "5", "--max-size", "48"],
    "render": ["render", "scene", "--confidence", *FAST],
    "decode": ["decode", "--model", "patches", "--output", "out"],
}
KILLED = ("encode", "render", "decode")
TIMEOUT_S = 600
# As many processes at once, drawn evenly.
PROCESSES = (1, 1, 1, 1, 2, 2, 3, 8)


class Failure(Exception):
    """Something is not as an uninterrupted run leaves it."""


class Soak:
    """A folder in which rounds are run, one after the other at the same path, as manifests hold the scene's.

    Args:
        folder: an empty folder.
        seed: of all that is drawn.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.source, self.work = folder / "source", folder / "work"
        plane_world.write_scene(self.source / "scene", plane_world.rig(4))
        (folder / "patches.py").write_text(plane_world.MODEL_SOURCE)
        self.counts: Counter[str] = Counter()
        self.expected: dict[str, dict[str, str]] = {}
        self._fresh()
        for step in STEPS:
            self._finish(step)
            self.expected[step] = digests(self.work)

    def round(self, most_kills: int) -> None:
        """Kill each command some times, then let it finish; compare after each."""
        self._fresh()
        for step in STEPS:
            for _ in range(self.random.choice((1, 1, 2)) if step in KILLED else 0):
                if self.counts["kills"] < most_kills:
                    self._kill(step)
            self._finish(step)
            self._compare(step, whole=True)
        self.counts["rounds"] += 1

    def full_disk_round(self) -> None:
        """Let each command run into a disk that is full, give it space, and let it finish."""
        total = sum(path.stat().st_size for path in self.work.rglob("*") if path.is_file())
        self._fresh()
        with self._small_disk() as resize:
            for step in STEPS:
                resize(None)
                used = shutil.disk_usage(self.work).used
                resize(int(used + 2**14 + self.random.uniform(0, 0.5) * total / len(STEPS)))
                done = self._run(step).wait_for()
                if done.returncode not in (0, 6) or "Traceback" in done.stderr or done.stderr.count("\n") > 1:
                    raise Failure(f"{step} on a full disk: exit {done.returncode}: {done.stderr}")
                self.counts["full disks"] += done.returncode == 6
                self._compare(step)
                resize(None)
                self._finish(step)
                self._compare(step, whole=True)

    def _kill(self, step: str) -> None:
        """Start processes of a command, and kill them when a random number of its files is there."""
        count = self.random.choice(PROCESSES)
        before = self.expected[list(STEPS)[list(STEPS).index(step) - 1]] if step != "encode" else {}
        wanted = self.random.randint(0, max(1, len(self.expected[step]) - len(before)) - 1)
        running = [self._run(step) for _ in range(count)]
        survivors = [] if count == 1 else running[: self.random.randint(0, 1)]
        begin = time.monotonic()
        while len(digests(self.work, of_content=False)) - len(before) < wanted or time.monotonic() - begin < 0.2:
            if all(process.has_ended() for process in running) or time.monotonic() - begin > TIMEOUT_S:
                break
            time.sleep(0.002)
        time.sleep(self.random.uniform(0, 0.03))
        for process in running:
            if process not in survivors:
                killed = process.kill()
                self.counts["kills"] += killed
                self.counts[f"kills of {step}"] += killed
        self.counts["rounds of several processes"] += count > 1
        for process in survivors:
            done = process.wait_for()
            if done.returncode != 0:
                raise Failure(f"{step} beside killed ones: exit {done.returncode}: {done.stderr}")
        self._compare(step)

    def _finish(self, step: str) -> None:
        done = self._run(step).wait_for()
        if done.returncode != 0:
            raise Failure(f"{step}: exit {done.returncode}: {done.stderr}")

    def _compare(self, step: str, whole: bool = False) -> None:
        """Check that files are those of an uninterrupted run; with `whole`, that all are there and nothing else."""
        found, expected = digests(self.work), self.expected[step]
        if other := sorted(name for name, digest in found.items() if expected.get(name) != digest):
            raise Failure(f"{step}: {len(other)} files differ, such as {other[0]}")
        if whole and (missing := sorted(expected.keys() - found.keys())):
            raise Failure(f"{step}: {len(missing)} files are missing, such as {missing[0]}")
        temps = [path for path in self.work.rglob(".*.tmp*")]
        self.counts["temporary files swept"] += 0 if whole else len(temps)
        if whole and temps:
            raise Failure(f"{step}: leaves {temps[0]}")
        self.counts["comparisons"] += 1

    def _fresh(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.source, self.work)

    def _run(self, step: str) -> Process:
        return Process(STEPS[step], self.work)

    @contextmanager
    def _small_disk(self) -> Iterator:
        """Mount a tmpfs in place of the folder; yield what sets its size in bytes, None for enough."""
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(self.work)], check=True)
        try:
            shutil.copytree(self.source, self.work, dirs_exist_ok=True)
            yield lambda size: subprocess.run(
                ["mount", "-o", f"remount,size={size or 2**26}", str(self.work)], check=True
            )
        finally:
            subprocess.run(["umount", "-l", str(self.work)], check=True)


class Process:
    """A command that runs."""

    def __init__(self, argv: list[str], folder: Path) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "LIFT3D_DEVICE": "cpu"}
        environment.pop("LIFT3D_CACHE", None)
        command = [sys.executable, "-m", "lift3d_cli", *argv]
        self._process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def has_ended(self) -> bool:
        """Tell if it is done."""
        return self._process.poll() is not None

    def kill(self) -> bool:
        """Kill it; return False if it had ended."""
        self._process.kill()
        self._process.communicate()
        return self._process.returncode < 0

    def wait_for(self) -> subprocess.CompletedProcess:
        """Wait until it ends; a hang is a failure."""
        try:
            _, stderr = self._process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            self._process.kill()
            raise Failure(f"{self._process.args}: hangs") from error
        return subprocess.CompletedProcess(self._process.args, self._process.returncode, None, stderr)


def digests(folder: Path, of_content: bool = True) -> dict[str, str]:
    """Return the sha256 of each file of a folder by its name; hidden ones are left out, but for the cache."""
    found = {}
    for path in folder.rglob("*"):
        if not path.name.startswith(".") and path.is_file():
            name = path.relative_to(folder).as_posix()
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if of_content else ""
    return found


def can_mount() -> bool:
    """Tell if a tmpfs can be mounted here."""
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True, check=False).returncode:
            return False
        subprocess.run(["umount", folder], check=True)
    return True


def soak(kills: int, seed: int, folder: Path) -> Counter:
    """Run rounds until so many processes were killed; return what was counted.

    Raises:
        Failure: at the first difference.
    """
    campaign = Soak(folder, seed)
    has_disk = can_mount()
    while campaign.counts["kills"] < kills:
        campaign.round(kills)
        if has_disk and campaign.counts["rounds"] % 4 == 1:
            campaign.full_disk_round()
    return campaign.counts


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="lift3d-soak-"))
    begin = time.monotonic()
    try:
        counts = soak(args.kills, args.seed, folder)
    except Failure as failure:
        print(f"soak --seed {args.seed}: {failure}\nkept: {folder}")
        return 1
    said = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    print(f"soak --seed {args.seed}: clean in {time.monotonic() - begin:.0f} s: {said}")
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
