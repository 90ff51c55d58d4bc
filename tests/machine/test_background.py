"""Reading and writing beside the computing: in the same order, so much and no more, and no thread is left."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from lift3d_cli.cache.files import TensorFile
from lift3d_cli.errors import CacheError, ModelError, SceneError
from lift3d_cli.geometry.grids import FeatureGrid
from lift3d_cli.machine.background import BackgroundWriter, prefetched, touched
from lift3d_cli.pipeline.workspace import Recent

pytestmark = pytest.mark.usefixtures("no_thread_is_left")

SOON_S = 20.0  # no test waits so long unless it fails


# ---- reading ahead ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [1, 3])
def test_results_come_in_the_items_order_and_a_bounded_number_is_ready(ahead):
    loaded = []

    def load(item: int) -> int:
        time.sleep(0.01 if item % 2 else 0)  # with several threads, the even ones are done first
        loaded.append(item)
        return 10 * item

    with prefetched(range(8), load, ahead) as results:
        for item in range(8):
            assert next(results) == 10 * item
            time.sleep(0.05)  # whatever may be loaded by now
            assert len(loaded) <= item + 1 + ahead
    assert sorted(loaded) == list(range(8))


def test_next_item_is_loaded_while_the_one_before_is_used():
    second = threading.Event()
    with prefetched([1, 2], lambda item: second.set() if item == 2 else None) as results:
        next(results)
        assert second.wait(SOON_S)


def test_error_of_loading_is_raised_at_its_item():
    def load(item: int) -> int:
        if item == 2:
            raise SceneError("no photo")
        return item

    seen = []
    with pytest.raises(SceneError, match="no photo"), prefetched(range(9), load) as results:
        seen.extend(item for item in results if seen.append(item))
    assert seen == [0, 1]


def test_who_leaves_early_has_no_more_loaded():
    loaded = []
    with prefetched(range(100), loaded.append) as results:
        next(results)
    assert len(loaded) <= 2


# ---- writing behind --------------------------------------------------------------------------------------------------


def test_functions_are_called_in_order_on_one_other_thread():
    called = []
    with BackgroundWriter() as later:
        for i in range(50):
            later(lambda *args: called.append((*args, threading.get_ident())), i, -i)
    assert [args[:2] for args in called] == [(i, -i) for i in range(50)]
    (thread,) = {args[2] for args in called}
    assert thread != threading.get_ident()


def test_only_so_many_wait():
    gate, done = threading.Event(), []
    timer = threading.Timer(0.3, gate.set)
    with BackgroundWriter(waiting=2) as later:
        for i in range(3):  # one that is called and two that wait
            later(lambda i: gate.wait(SOON_S) and done.append(i), i)
        assert not gate.is_set()
        timer.start()
        later(done.append, 3)
        assert gate.is_set()
    assert done == [0, 1, 2, 3]
    timer.join()


def write(*jobs: tuple, then: type[BaseException] | None = None) -> None:
    with BackgroundWriter() as later:
        for job in jobs:
            later(*job)
        if then:
            raise then


def fail() -> None:
    raise CacheError("no room")


def test_error_of_writing_is_raised_and_what_was_given_after_it_is_not_done():
    done = []
    with pytest.raises(CacheError, match="no room"):
        write((done.append, 1), (fail,), (done.append, 2))
    assert done == [1]


def test_error_of_writing_is_raised_where_the_next_function_is_given():
    given, done = [], []

    def run() -> None:
        with BackgroundWriter(waiting=1000) as later:
            later(fail)
            for i in range(1000):
                later(done.append, i)
                given.append(i)
                time.sleep(0.01)

    with pytest.raises(CacheError):
        run()
    assert len(given) < 1000
    assert done == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, ModelError])
def test_all_that_was_given_before_an_error_or_ctrl_c_is_done(error):
    done = []
    with pytest.raises(error):
        write(*((lambda i: (time.sleep(0.05), done.append(i)), i) for i in range(3)), then=error)
    assert done == [0, 1, 2]


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")
def test_ctrl_c_is_heard_while_the_main_thread_waits_for_the_reader():
    written, given, heard, in_time = [], threading.Event(), threading.Event(), []

    def load(item: int) -> None:
        if item == 1:
            given.wait(SOON_S)
            time.sleep(0.1)  # now the main thread waits for this item
            os.kill(os.getpid(), signal.SIGINT)
            in_time.append(heard.wait(SOON_S))

    def run() -> None:
        with prefetched(range(9), load) as results, BackgroundWriter() as later:
            try:
                for _ in results:
                    later(lambda: (time.sleep(0.3), written.append("first")))
                    given.set()
            finally:
                heard.set()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background command ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            run()
    finally:
        signal.signal(signal.SIGINT, before)
    assert in_time == [True]
    assert written == ["first"]


# ---- what the threads share ------------------------------------------------------------------------------------------


def test_threads_share_recent_values():
    recent: Recent[int] = Recent(5)

    def work(seed: int) -> bool:
        keys = np.random.default_rng(seed).integers(0, 12, 20_000).tolist()
        return all(recent.get(key, lambda key=key: 7 * key) == 7 * key for key in keys)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(work, range(4)))
    finally:
        sys.setswitchinterval(interval)
    assert sum(key in recent for key in range(12)) == 5


def test_who_finds_a_recent_value_does_not_wait_for_anothers():
    recent, gate = Recent(2), threading.Event()
    recent.get("ready", lambda: 1)
    slow = threading.Thread(target=lambda: recent.get("slow", lambda: gate.wait(SOON_S)))
    slow.start()
    assert recent.get("ready", lambda: pytest.fail("made again")) == 1
    gate.set()
    slow.join()


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what is in memory")
@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
def test_stored_features_are_read_from_disk_only_when_touched(tmp_path, dtype):
    file = TensorFile(tmp_path / "map.safetensors", "features", {}, "")
    file.write_map(torch.rand(64, 512, 512), FeatureGrid(512, 512, (1.0, 1.0)), dtype)

    def mapped() -> int:
        (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssFile:"))
        return int(line.split()[1]) * 1024

    before = mapped()
    data, _, _ = file.read_map()
    opened = mapped()
    touched(data)
    size = data.numel() * data.element_size()
    assert opened - before < size / 2
    assert mapped() - before > 0.9 * size
