"""What a scene's files are that nobody expects: pipes, links to themselves, devices, files without end."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from scene_files import frame, look_at, write_colmap, write_llff, write_photo, write_transforms

from lift3d_cli.errors import SceneError
from lift3d_cli.scene.load import load_scene
from lift3d_cli.scene.paths import read_poses

ODD = {
    "pipe": os.mkfifo,
    "link to itself": lambda path: path.symlink_to(path),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
    "no end": lambda path: (path.touch(), os.truncate(path, 2**40)),  # takes no place on the disk
}


def nerfstudio(root: Path) -> None:
    write_transforms(root, [frame("a.png"), frame("b.png", look_at((1, 0, -4)))], w=12, h=8, fl_x=20.0)


def colmap(binary: bool):
    """Return what writes a scene of COLMAP."""
    photos = [(f"{name}.png", (1, 0, 0, 0), (x, 0, 4), [(u, u, u) for u in range(8)]) for x, name in enumerate("ab")]
    points = [(i, (0.1 * i, 0.0, 4.0), 0.5, 3) for i in range(8)]
    return lambda root: write_colmap(root, photos, points=points, binary=binary)


def llff(root: Path) -> None:
    write_llff(root, [[*range(17)]] * 2, photos=2)


FILES = [
    (nerfstudio, "transforms.json"),
    (llff, "poses_bounds.npy"),
    *((colmap(True), f"{stem}.bin") for stem in ("cameras", "images", "points3D")),
    *((colmap(False), f"{stem}.txt") for stem in ("cameras", "images", "points3D")),
]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize(("write", "name"), FILES, ids=[name for _, name in FILES])
def test_odd_scene_file_is_one_line(tmp_path, write, name, odd):
    write(tmp_path)
    (path,) = tmp_path.rglob(name)
    path.unlink()
    ODD[odd](path)
    if name.startswith("points3D"):
        scene = load_scene(tmp_path)  # as if there were no points
        assert len(scene.views) == 2
        assert [f"{name}: cannot be read" in warning for warning in scene.warnings] == [True] * (odd == "no end")
        return
    with pytest.raises(SceneError) as caught:
        load_scene(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("odd", ODD)
def test_odd_photo_is_one_line(tmp_path, odd):
    nerfstudio(tmp_path)
    (tmp_path / "a.png").unlink()
    ODD[odd](tmp_path / "a.png")
    if odd == "no end":
        with pytest.raises(SceneError, match=r"a\.png: "):
            load_scene(tmp_path)
        return
    scene = load_scene(tmp_path)
    assert [view.name for view in scene.views] == ["b.png"]
    assert "1 of 2 listed photos are absent" in scene.warnings[0]


@pytest.mark.parametrize("odd", sorted({*ODD} - {"pipe"}))
def test_odd_camera_path_is_one_line(tmp_path, odd):
    """A pipe is read, as a shell's `<(...)` is one."""
    ODD[odd](tmp_path / "p.json")
    with pytest.raises(SceneError, match=r"p\.json: "):
        read_poses(tmp_path / "p.json")


def test_odd_photo_beside_a_photo_of_another_ending(tmp_path):
    write_transforms(tmp_path, [frame("a"), frame("b.png", look_at((1, 0, -4)))], photos=False, w=12, h=8, fl_x=20.0)
    write_photo(tmp_path / "b.png")
    (tmp_path / "a.jpg").symlink_to("a.jpg")
    write_photo(tmp_path / "a.png")
    assert [view.name for view in load_scene(tmp_path).views] == ["a.png", "b.png"]


@pytest.fixture
def open_folder():
    """A folder that another user may enter, as pytest's are not."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.mark.parametrize("closed", ["", "images"])
def test_folder_that_may_not_be_read_is_one_line(open_folder, closed):
    root = open_folder / "scene"
    write_transforms(root, [frame("images/a.png"), frame("images/b.png", look_at((1, 0, -4)))], w=12, h=8, fl_x=20.0)
    load_scene(root)  # which imports all that it needs
    user = os.geteuid()
    os.chmod(root / closed, 0)
    try:
        if user == 0:  # who may read all
            os.seteuid(65534)
        with pytest.raises(SceneError, match=r": cannot be read \(Permission denied\)$"):
            load_scene(root)
    finally:
        os.seteuid(user)
        os.chmod(root / closed, 0o755)
