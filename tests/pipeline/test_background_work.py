"""Stages that read and write beside the computing: the files of one thread, also if a disk is full or Ctrl-C comes."""

from __future__ import annotations

import errno
import re
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import imageio.v2 as imageio
import pytest
from plane_world import rig
from workbench import Interrupted, Progress

from lift3d_cli.cache.store import SceneCache
from lift3d_cli.errors import ResourceError, SceneError
from lift3d_cli.machine import atomic
from lift3d_cli.machine import background as overlap
from lift3d_cli.pipeline import lift
from lift3d_cli.pipeline import workspace as photos_module

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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
    # Features, encoders, surfaces, frames of a render, its manifests, what is decoded with its cameras.
    assert len(one) == 8 + 8 + 2 + 8 + 3 * 4 + 3 + 5
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
    used = {work.workspace.scene.views[i].name for pose in range(3) for i in render.read_maps(pose).sources}
    # The frames are half as large as the photos that were encoded, so each photo is read for the colour, for the
    # descriptors, and its features: once, and none of it by the thread that renders.
    assert sorted(reads) == sorted(3 * [("lift3d-reader", name) for name in used])
    assert len(used) < 8


def test_a_pose_is_planned_once_and_by_the_thread_that_reads(work, monkeypatch):
    work.encode()
    planned, plan_memory = [], lift.plan_memory

    def note(*args):
        planned.append(threading.current_thread().name[:13])
        return plan_memory(*args)

    monkeypatch.setattr(lift, "plan_memory", note)
    work.render()
    assert planned == 3 * ["lift3d-reader"]


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
    name = work.workspace.record(5, (96, 72)).file_name
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
    (first,), (second,), _ = (done.read_maps(pose).sources for pose in range(3))
    assert first != second
    damaged, read_photo = work.workspace.scene.views[second].name, photos_module.read_photo

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
        for number, item in enumerate(items):
            if number == 2 and description == "render":
                raise error
            yield item

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
