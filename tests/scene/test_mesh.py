"""The depth of a mesh in a photo's camera."""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest
from scene_files import look_at
from written_depth import write_square

from lift3d_cli.errors import ResourceError, SceneError
from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.scene.mesh import draw_depth

OFFSET = np.array([5e5, -2e5, 100.0])


def camera(offset=(0.0, 0.0, 0.0), width=60, height=40) -> Camera:
    w2c = look_at(np.array((0.5, 0.3, -3.0)) + offset, np.array((0.0, 0.0, 0.0)) + offset)
    return Camera(np.array([[40.0, 0, 31], [0, 42, 19], [0, 0, 1]]), w2c, width, height)


@pytest.mark.parametrize("suffix", [".ply", ".obj"])
@pytest.mark.parametrize("offset", [np.zeros(3), OFFSET], ids=["near the origin", "far from the origin"])
def test_depth_of_a_square_is_exact_and_nothing_is_behind_it(tmp_path, suffix, offset):
    pytest.importorskip("embreex")
    pytest.importorskip("trimesh")
    here = camera(offset)
    depth = draw_depth(write_square(tmp_path / f"a{suffix}", offset), here)
    u, v = np.meshgrid(np.arange(60) + 0.5, np.arange(40) + 0.5)
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(here.K).T @ here.w2c[:3, :3]
    t = (offset[2] - here.position[2]) / rays[..., 2]
    xy = here.position[:2] + t[..., None] * rays[..., :2] - offset[:2]
    inside = (np.abs(xy) < 0.999).all(-1)
    np.testing.assert_allclose(depth[inside], t[inside], rtol=1e-5)
    assert not depth[(np.abs(xy) > 1.001).any(-1)].any()


def test_large_photo_is_drawn_smaller(tmp_path):
    pytest.importorskip("embreex")
    pytest.importorskip("trimesh")
    large = camera().resized(3000, 2000)
    assert draw_depth(write_square(tmp_path / "a.ply"), large).shape == (533, 800)


def test_mesh_that_changed_is_read_again(tmp_path):
    pytest.importorskip("embreex")
    pytest.importorskip("trimesh")
    before = draw_depth(write_square(tmp_path / "a.ply"), camera())
    time.sleep(0.02)
    after = draw_depth(write_square(tmp_path / "a.ply", (0, 0, 1.0)), camera())
    assert after[20, 30] > before[20, 30] + 0.5


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "cannot be read as a mesh|has no triangles"),
        (b"ply\nformat ascii 1.0\nelement vertex 9\n", "cannot be read as a mesh|has no triangles"),
        (
            b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\n"
            b"end_header\n0 0 0\n",
            "cannot be read as a mesh|has no triangles",
        ),
    ],
)
def test_what_is_no_mesh_is_one_line(tmp_path, content, says):
    pytest.importorskip("embreex")
    pytest.importorskip("trimesh")
    (tmp_path / "a.ply").write_bytes(content)
    with pytest.raises(SceneError, match=says) as error:
        draw_depth(tmp_path / "a.ply", camera())
    assert "\n" not in str(error.value)


def test_missing_library_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trimesh", None)
    with pytest.raises(ResourceError, match=r"trimesh is not installed. hint: pip install 'lift3d-cli\[depth\]'"):
        draw_depth(write_square(tmp_path / "a.ply"), camera())
