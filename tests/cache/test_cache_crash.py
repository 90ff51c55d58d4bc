"""Whatever happens during a write, a file of the cache is whole or not there."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lift3d_cli.cache.store import SceneCache
from lift3d_cli.errors import CacheError, ResourceError
from lift3d_cli.machine import atomic

KEYS = [f"{n:02x}" * 32 for n in range(8)]

WRITER = """
import os, signal, sys
from pathlib import Path
import numpy as np
from lift3d_cli.cache.store import SceneCache
cache, point, rounds = SceneCache(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3])
def die(*args):
    os.kill(os.getpid(), signal.SIGKILL)
if point != "never":
    setattr(os, point, die)
print("ready", flush=True)
for _ in range(rounds):
    for n in range(8):
        cache.write_arrays("points", f"{n:02x}" * 32, {"xyz": np.full((500, 3), n, float)})
"""


def _writer(root: Path, point: str = "never", rounds: int = 1) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(root), point, str(rounds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    return process


def _temps(root: Path) -> list[Path]:
    return list(root.rglob("*.tmp"))


def _check_whole(cache: SceneCache) -> int:
    """Each file that is there is complete and right; returns how many there are."""
    present = 0
    for n, key in enumerate(KEYS):
        if (cache.root / f"points-{key[:8]}.safetensors").exists():
            assert (cache.read_arrays("points", key)["xyz"] == n).all()
            present += 1
    return present


@pytest.mark.parametrize("point", ["fsync", "replace"])
def test_kill_within_a_write_leaves_nothing_but_a_temp(tmp_path, point, encoder):
    process = _writer(tmp_path, point)
    assert process.wait() == -signal.SIGKILL
    cache = SceneCache(tmp_path)
    assert _check_whole(cache) == 0
    assert len(_temps(tmp_path)) == 1
    cache.begin(encoder)
    assert _temps(tmp_path) == []


def test_kill_at_any_moment_leaves_whole_files(tmp_path):
    rng = random.Random(0)
    cache = SceneCache(tmp_path)
    for _ in range(8):
        process = _writer(tmp_path, rounds=10**6)
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.wait()
        _check_whole(cache)
    atomic.remove_leftovers(tmp_path)
    assert _temps(tmp_path) == []


def test_two_writers_and_a_reader_share_a_cache(tmp_path):
    cache = SceneCache(tmp_path)
    writers = [_writer(tmp_path, rounds=30) for _ in range(2)]
    while any(writer.poll() is None for writer in writers):
        _check_whole(cache)
        atomic.remove_leftovers(tmp_path)  # must leave the temps of the living alone
    assert [writer.returncode for writer in writers] == [0, 0]
    assert _check_whole(cache) == len(KEYS)
    assert _temps(tmp_path) == []


@pytest.mark.parametrize("point", ["replace", "fsync"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_one_line_and_leaves_no_temp(cache, encoder, photo, data, grid, monkeypatch, point, code):
    cache.begin(encoder)

    def fail(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, point, fail)
    with pytest.raises(ResourceError, match=r"the disk is full\. hint: free space, or --cache DIR"):
        cache.write_features(encoder, photo, data, grid)
    assert _temps(cache.root) == []
    assert not cache.has_features(encoder, photo)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_folder_that_cannot_be_written_names_the_way_out(cache, encoder, photo, data, grid, monkeypatch, code):
    def fail(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(CacheError, match=r"no permission .*hint: --cache DIR or LIFT3D_CACHE=DIR"):
        cache.write_features(encoder, photo, data, grid)


def test_file_in_place_of_the_folder_is_a_cache_error(cache, encoder, photo, data, grid):
    cache.root.write_text("a file")
    with pytest.raises(CacheError, match=r"hint: --cache DIR"):
        cache.write_features(encoder, photo, data, grid)
    assert cache.encoders() == []


def test_old_features_survive_a_write_that_fails(cache, encoder, photo, data, grid, written, monkeypatch):
    before = written.read_bytes()
    monkeypatch.setattr(os, "replace", lambda *args: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(ResourceError):
        cache.write_features(encoder, photo, data + 1, grid)
    assert written.read_bytes() == before


def test_ctrl_c_within_a_write_leaves_no_temp(cache, encoder, photo, data, grid, monkeypatch):
    cache.begin(encoder)

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cache.write_features(encoder, photo, data, grid)
    assert _temps(cache.root) == []


def test_sweep_spares_the_living_and_the_unknown(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = {
        "own": f".a.{atomic._host()}-{os.getpid()}-00000000.tmp",
        "dead": f".a.{atomic._host()}-{dead.pid}-00000000.tmp",
        "other machine": f".a.00000000-{dead.pid}-00000000.tmp",
        "other machine, old": f".b.00000000-{dead.pid}-00000000.tmp",
        "of another program": ".editor.tmp",
    }
    for name in names.values():
        (tmp_path / name).write_bytes(b"1234")
    for old in ("other machine, old", "of another program"):
        os.utime(tmp_path / names[old], (0, 0))
    assert atomic.remove_leftovers(tmp_path) == 8
    assert {p.name for p in tmp_path.iterdir()} == {names[n] for n in ("own", "other machine", "of another program")}


def test_file_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        atomic.write_atomic(tmp_path / "a", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_read_of_a_replaced_file_keeps_the_old_content(cache, photo):
    """A memory-mapped tensor outlives the file that it came from."""
    mask = np.ones((4, 4), dtype=bool)
    cache.write_photo(photo, np.zeros((4, 4, 3), np.uint8), mask, mask)
    image, *_ = cache.read_photo(photo)
    cache.write_photo(photo, np.ones((4, 4, 3), np.uint8), mask, mask)
    assert image.sum() == 0
