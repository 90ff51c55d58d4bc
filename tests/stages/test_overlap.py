"""Reading and writing beside the computing: the files of one thread, in the same order, and no thread is left."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from plane_world import rig
from workbench import Interrupted, Progress

from lift3d_cli.cache import atomic
from lift3d_cli.cache.files import TensorFile
from lift3d_cli.cache.store import SceneCache
from lift3d_cli.errors import CacheError, ModelError, ResourceError, SceneError
from lift3d_cli.geometry.grids import FeatureGrid
from lift3d_cli.stages import overlap
from lift3d_cli.stages import photos as photos_module
from lift3d_cli.stages.overlap import BackgroundWriter, prefetched, touched
from lift3d_cli.stages.photos import Recent

SOON_S = 20.0  # no test waits so long unless it fails


def threads() -> list[str]:
    """Names of the threads of this module that live."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("lift3d-")]


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    assert threads() == []


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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


# ---- the stages ------------------------------------------------------------------------------------------------------


class OneThread:
    """A ThreadPoolExecutor without threads."""

    def __init__(self, *_: object) -> None:
        pass

    def submit(self, function, *args) -> Future:
        future = Future()
        try:
            future.set_result(function(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def shutdown(self, **_: object) -> None:
        pass


def test_all_files_are_byte_for_byte_those_of_one_thread(work, tmp_path, monkeypatch):
    found = []
    for name in ("one", "several"):
        with monkeypatch.context() as patch:
            if name == "one":
                patch.setattr(overlap, "ThreadPoolExecutor", OneThread)
            work.encode(force=True)
            work.encode("rgb", force=True)
            render = work.render(output=tmp_path / "render")
            work.decode(render, model="patches")
        found.append(contents(work.scene / ".lift3d") | contents(render.root) | contents(work.out))
        for folder in ("render", "out"):
            (tmp_path / folder).rename(tmp_path / f"{folder}-{name}")
    one, several = found
    assert (
        len(one) == 8 + 8 + 2 + 3 * 4 + 3 + 4
    )  # features, encoders, frames of a render, its manifests, what is decoded
    assert set(one) == set(several)
    assert [name for name in one if one[name] != several[name]] == []


def test_a_pose_is_read_on_another_thread_and_of_other_photos_nothing(work, monkeypatch):
    work.encode()
    reads, read_photo, read_features = [], photos_module.read_photo, SceneCache.read_features

    def note(name: str) -> None:
        reads.append((threading.current_thread().name[:13], name))

    monkeypatch.setattr(photos_module, "read_photo", lambda view: note(view.name) or read_photo(view))
    monkeypatch.setattr(
        SceneCache,
        "read_features",
        lambda self, encoder, photo: note(photo.name) or read_features(self, encoder, photo),
    )
    render = work.render()
    used = {work.photos.scene.views[i].name for pose in range(3) for i in render.read_frame(pose)[2]["sources"]}
    # The frames are half as large as the photos that were encoded, so each photo is read for the colour, for the
    # descriptors, and its features: once, and none of it by the thread that renders.
    assert sorted(reads) == sorted(3 * [("lift3d-reader", name) for name in used])
    assert len(used) < 8


def full_disk(monkeypatch, name: str) -> None:
    """Writing a file of this name fails; others are slow."""
    replace_file = atomic.replace_file

    def write(path: Path, data: bytes) -> None:
        if path.name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        time.sleep(0.02)
        replace_file(path, data)

    monkeypatch.setattr(atomic, "replace_file", write)


def test_picture_that_cannot_be_written_ends_the_render_and_its_frame_is_not_there(work, monkeypatch):
    work.encode()
    with monkeypatch.context() as patch:
        full_disk(patch, "00001.png")
        with pytest.raises(ResourceError, match=r"the disk is full\. hint: free space"):
            work.render()
    progress = Progress()
    render = work.render(progress=progress)
    assert progress.done == [1, 2]
    assert render.missing() == []


def test_features_that_cannot_be_written_end_encode_and_those_before_are_kept(work, monkeypatch):
    name = work.photos.record(5, (96, 72)).file_name
    with monkeypatch.context() as patch:
        full_disk(patch, name)
        with pytest.raises(ResourceError, match="the disk is full"):
            work.encode()
    encoded = work.encode()
    assert (encoded.num_encoded, encoded.num_reused) == (3, 5)


def test_photo_that_is_damaged_meanwhile_ends_the_render_and_the_frames_before_are_kept(work, tmp_path, monkeypatch):
    work.encode()
    cameras = rig(8)[:3]
    done = work.render(cameras, output=tmp_path / "before", views=1)
    first, second, _ = (done.read_frame(pose)[2]["sources"].item() for pose in range(3))
    assert first != second
    damaged, read_photo = work.photos.scene.views[second].name, photos_module.read_photo

    def read(view):
        if view.name == damaged:
            raise SceneError(f"{damaged}: cannot be read")
        return read_photo(view)

    with monkeypatch.context() as patch:
        patch.setattr(photos_module, "read_photo", read)
        with pytest.raises(SceneError, match=f"^{re.escape(damaged)}: cannot be read$"):
            work.render(cameras, views=1)
    progress = Progress()
    work.render(cameras, views=1, progress=progress)
    assert progress.done == [1, 2]


@pytest.mark.parametrize("error", [Interrupted, KeyboardInterrupt])
def test_ctrl_c_keeps_every_frame_that_was_rendered_on_a_slow_disk_too(work, monkeypatch, error):
    def interrupt(items, description, total):
        yield from list(items)[:2]
        raise error

    work.encode()
    with monkeypatch.context() as patch:
        full_disk(patch, "")
        with pytest.raises(error):
            work.render(progress=interrupt)
    progress = Progress()
    work.render(progress=progress)
    assert progress.done == [2]


def test_video_that_cannot_be_written_is_one_line_and_leaves_nothing(work, monkeypatch):
    work.encode()
    render = work.render()

    class Writer:
        append_data = staticmethod(
            lambda image: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device"))
        )
        close = staticmethod(lambda: None)

    monkeypatch.setattr(imageio, "get_writer", lambda path, **_: path.touch() or Writer)
    with pytest.raises(ResourceError, match=r"recolor\.mp4: cannot be written \(No space left on device\)"):
        work.decode(render)
    assert [path.name for path in work.out.iterdir()] == ["recolor"]
