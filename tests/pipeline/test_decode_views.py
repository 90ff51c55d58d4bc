"""decode without a model: the render's own colour, depth, normals and points."""

from __future__ import annotations

import subprocess

import cv2
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from plane_world import look_at, read_image

from lift3d_cli.cache.renders import Render
from lift3d_cli.errors import CacheError, UsageError
from lift3d_cli.pipeline.view_tasks import depth_picture, normals
from lift3d_cli.scene.load import load_scene
from lift3d_cli.scene.paths import read_poses
from lift3d_cli.scene.ply import read_ply_points


@pytest.fixture
def render(work) -> Render:
    """Three poses in colour only: nothing is encoded."""
    return work.render(fps=10.0)


def depth_of(render: Render, index: int) -> np.ndarray:
    return render.read_maps(index).depth.numpy()


def test_colour_needs_no_model(work, render):
    done = work.decode(render, task="color")
    for index in range(3):
        assert np.array_equal(read_image(done.frames / f"pose-{index}.png"), read_image(render.color_path(index)))
    assert done.video == work.out / "color.mp4"


def test_cameras_beside_the_frames_make_them_a_scene(work, render):
    done = work.decode(render, task="color", video=False)
    read = read_poses(done.frames / "transforms.json")
    assert (read.names, read.fps) == (("pose-0.png", "pose-1.png", "pose-2.png"), 10)
    scene = load_scene(done.frames)
    for cameras in (read.cameras, [view.camera for view in scene.views]):
        for got, want in zip(cameras, render.cameras, strict=True):
            assert np.allclose(got.K, want.K)
            assert np.allclose(got.w2c, want.w2c)
            assert (got.width, got.height) == (want.width, want.height)


def test_depth_is_stored_in_the_unit_that_is_asked_for(work, render):
    for scale, given in ((1000, {}), (256, {"depth_scale": 256.0})):
        done = work.decode(render, task="depth", format="png16", video=False, **given)
        stored = cv2.imread(str(done.frames / "pose-1.png"), cv2.IMREAD_UNCHANGED)
        assert stored.dtype == np.uint16
        assert np.abs(stored - depth_of(render, 1) * scale).max() <= 0.5 + 1e-2


def test_depth_too_far_for_16_bits_is_unknown_and_said(work, render):
    done = work.decode(render, task="depth", format="png16", depth_scale=20000.0)
    stored = cv2.imread(str(done.frames / "pose-1.png"), cv2.IMREAD_UNCHANGED)
    is_far = depth_of(render, 1) * 20000 > 65534
    assert is_far.any()
    assert ((stored == 0) == is_far).all()
    assert "is stored as 0, unknown" in done.note


def test_pictures_of_depth_have_one_range(work, render):
    near = depth_picture(torch.tensor([[1.0, 2.0, 4.0]]), (1.0, 4.0))[:, 0]
    assert near[0, 0] > near[2, 0]  # red is near
    assert near[2, 2] > near[0, 2]
    pictures = work.decode(render, task="depth").frames
    assert all(read_image(pictures / f"pose-{i}.png").std() > 0 for i in range(3))


@pytest.mark.parametrize("tilt", [(0.0, 0.0), (0.6, 0.0), (0.0, -0.5), (0.4, 0.3)])
def test_normals_of_a_plane_are_exact(tilt):
    camera = look_at((0.0, 0.0, -4.0), width=40, height=30, focal=40.0)
    v, u = np.mgrid[:30, :40] + 0.5
    rays = np.einsum("ij,jhw->ihw", np.linalg.inv(camera.K), np.stack([u, v, np.ones_like(u)]))
    plane = np.array([*tilt, 1.0])  # in OpenCV's axes, away from the camera
    depth = 4 / np.einsum("i,ihw->hw", plane, rays)
    want = np.array([-plane[0], plane[1], plane[2]]) / np.linalg.norm(plane)  # +Y up, +Z towards the camera
    got = normals(torch.from_numpy(depth).float(), camera).numpy()
    assert np.abs(got[:, 3:-3, 3:-3] - want[:, None, None]).max() < 2e-3


def test_exr_has_colour_in_linear_light_for_other_programs_too(work, render):
    openexr = pytest.importorskip("OpenEXR")
    done = work.decode(render, task="color", format="exr-float", video=False)
    file = done.frames / "pose-0.exr"
    channels = openexr.File(str(file), separate_channels=True).channels()
    assert set(channels) == {"R", "G", "B", "A", "Z", "confidence"}
    assert all(channel.pixels.dtype == np.float32 for channel in channels.values())
    srgb = read_image(render.color_path(0)) / 255.0
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    assert np.abs(np.stack([channels[c].pixels for c in "RGB"], -1) - linear).max() < 1e-5
    assert np.array_equal(channels["Z"].pixels, depth_of(render, 0))
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-v",
        "error",
        "-i",
        str(file),
        "-f",
        "rawvideo",
        "-pix_fmt",
        "gbrapf32",
    ]
    planes = np.frombuffer(subprocess.run([*command, "-"], capture_output=True, check=True).stdout, np.float32)
    green, blue, red, _ = planes.reshape(4, 36, 48)
    assert np.abs(np.stack([red, green, blue], -1) - linear).max() < 1e-5


def test_exr_of_half_precision_keeps_depth_exact(work, render):
    openexr = pytest.importorskip("OpenEXR")
    done = work.decode(render, task="normals", format="exr", video=False)
    channels = openexr.File(str(done.frames / "pose-2.exr"), separate_channels=True).channels()
    assert set(channels) == {"N.X", "N.Y", "N.Z", "A", "Z", "confidence"}
    assert channels["N.X"].pixels.dtype == np.float16
    assert np.array_equal(channels["Z"].pixels, depth_of(render, 2))


def test_points_lie_on_the_surface_and_have_its_colours(work, render):
    file = work.decode(render, task="points").frames
    assert file == work.out / "points.ply"
    xyz = read_ply_points(file)
    assert len(xyz) > 100
    shown = np.concatenate([camera.project(xyz)[1] for camera in render.cameras[:1]])
    low, high = (depth_of(render, 0).min(), depth_of(render, 0).max())
    assert ((shown > 0.8 * low) & (shown < 1.2 * high)).mean() > 0.95


@pytest.mark.parametrize("given", [{"style": "a.png"}, {"text": ("a",)}, {"clusters": 3}, {"soft_masks": True}])
def test_options_that_do_nothing_are_refused(work, render, given):
    with pytest.raises(UsageError, match=r"does nothing here: task 'color' does not use it\. hint: leave it out"):
        work.decode(render, task="color", **given)
    assert not work.out.exists()


def test_unfinished_render_has_no_colour_yet(work, render):
    render.frame_path(1).unlink()
    with pytest.raises(CacheError, match="1 of 3 frames are not rendered yet"):
        work.decode(render, task="color")
