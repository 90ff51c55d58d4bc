"""The campaigns run, a little of them in each run of the tests; and what the fuzzer found is read again."""

from __future__ import annotations

import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import fuzz  # noqa: E402
import readers  # noqa: E402

from lift3d_cli.errors import Lift3dError  # noqa: E402

FINDINGS = sorted(path for path in fuzz.FINDINGS.glob("*--*"))


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    return readers.readers(tmp_path_factory.mktemp("readers"))


@pytest.mark.parametrize("path", FINDINGS, ids=lambda path: path.name)
def test_what_was_found_is_read_or_refused_in_a_line(every, path):
    reader = every[path.name.split("--")[0]]
    whole = reader.path.read_bytes()
    reader.path.write_bytes(path.read_bytes())
    try:
        assert fuzz.problem(reader) is None
    finally:
        reader.path.write_bytes(whole)


def test_every_reader_survives_some_spoiled_files(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "FINDINGS", tmp_path / "findings")
    counts, found = fuzz.fuzz(4, seed=0, only="", folder=tmp_path)
    assert found == {}
    assert min(counts.values()) >= 1


def test_fuzzer_finds_what_is_wrong(tmp_path, monkeypatch):
    def hang() -> None:
        time.sleep(60)

    monkeypatch.setattr(fuzz, "HANG_S", 1)
    path = tmp_path / "a"
    assert "KeyError" in fuzz.problem(readers.Reader(path, lambda: {}["a"]))
    assert "Hang" in fuzz.problem(readers.Reader(path, hang))

    def refuse() -> None:
        raise Lift3dError("a: is no b")

    assert fuzz.problem(readers.Reader(path, refuse)) is None


@pytest.mark.slow
def test_killed_commands_leave_what_an_uninterrupted_run_would():
    argv = [sys.executable, str(HERE / "soak.py"), "--kills", "2", "--seed", "3"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "clean" in done.stdout
