"""One folder holds one run; formats of features; videos as asked."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import cv2
import imageio.v3 as iio
import numpy as np
import pytest
import safetensors
from PIL import Image
from plane_world import look_at, read_image
from workbench import POSES, edit

from lift3d_cli.cache.renders import Render
from lift3d_cli.errors import ResourceError, UsageError
from lift3d_cli.pipeline import video


@pytest.fixture
def render(work) -> Render:
    work.encode()
    return work.render(fps=10.0)


@pytest.fixture
def other(work, render) -> Render:
    return work.render(POSES[:2], names=("a", "b"))


def test_another_renders_files_are_refused(work, render, other):
    work.decode(render)
    before = {p.name: p.read_bytes() for p in (work.out / "recolor").iterdir()}
    with pytest.raises(UsageError, match=r"recolor: holds files of another render\. hint: --output .*--move-aside"):
        work.decode(other)
    assert {p.name: p.read_bytes() for p in (work.out / "recolor").iterdir()} == before


def test_another_renders_files_are_moved_aside_with_their_video(work, render, other):
    work.decode(render)
    work.decode(other, move_aside=True)
    found = {p.name for p in work.out.iterdir()}
    assert found == {"recolor", "recolor.mp4", "recolor.1", "recolor.1.mp4"}
    assert {p.stem for p in (work.out / "recolor").glob("*.png")} == {"a", "b"}
    assert {p.stem for p in (work.out / "recolor.1").glob("*.png")} == {"pose-0", "pose-1", "pose-2"}


def test_foreign_pictures_are_refused(work, render):
    (work.out / "recolor").mkdir(parents=True)
    (work.out / "recolor" / "holiday.png").write_bytes(b"mine")
    with pytest.raises(UsageError, match="holds files of other frames"):
        work.decode(render)


def test_same_run_replaces_its_files_also_in_another_format(work, render):
    work.decode(render)
    work.decode(render)
    pytest.importorskip("OpenEXR")
    done = work.decode(render, format="exr")
    assert {p.suffix for p in done.frames.iterdir()} == {".exr", ".json"}


def test_two_models_with_one_task_get_two_folders(work, render, model_file):
    twin = model_file.with_name("twin.py")
    twin.write_text(model_file.read_text())
    edit(twin, 'name="patches"', 'name="twin"')
    work.encode(f"{twin}:Patches")
    both = work.render(models=("patches", "twin"))
    names = [work.decode(both, model=model, task="recolor").frames.name for model in ("patches", "twin")]
    assert names == ["recolor-patches", "recolor-twin"]


def test_raw_features_have_grid_stride_model_and_camera(work, render):
    (features,) = render.feature_renders()
    data, grid, _ = features.read_frame(1)
    file = work.decode(render, raw="npz").frames / "pose-1.npz"
    assert file.parent == work.out / "features" / "patches"
    with np.load(file) as found:
        assert np.array_equal(found["features"], data.numpy())
        assert (found["scale"] == grid.scale).all()
        assert (found["offset"] == grid.offset).all()
        assert (found["stride"], found["model"]) == (4, "patches")
        assert np.array_equal(found["K"], render.cameras[1].K)
        assert np.array_equal(found["w2c"], render.cameras[1].w2c)
    file = work.decode(render, raw="safetensors").frames / "pose-1.safetensors"
    with safetensors.safe_open(file, "np") as opened:
        assert opened.metadata()["model"] == "patches"
        assert {"K", "w2c", "width", "height", "scale", "offset", "stride"} < set(opened.metadata())


def test_raw_features_as_exr_are_exact(work, render):
    openexr = pytest.importorskip("OpenEXR")
    (features,) = render.feature_renders()
    file = work.decode(render, raw="exr").frames / "pose-0.exr"
    read = openexr.File(str(file), separate_channels=True)
    stacked = np.stack([read.channels()[f"f{i:03d}"].pixels for i in range(6)])
    assert np.array_equal(stacked, features.read_frame(0)[0].numpy())
    assert read.header()["lift3d:stride"] == "4"


def test_16_bit_frames_are_finer_than_8_bit_ones(work, render):
    coarse = read_image(work.decode(render).frames / "pose-0.png").astype(float)
    file = work.decode(render, format="png16").frames / "pose-0.png"
    fine = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)[..., ::-1]
    assert fine.dtype == np.uint16
    assert np.abs(fine / 257 - coarse).max() <= 0.51
    assert (fine % 257 != 0).any()


def test_frames_say_that_they_are_srgb(work, render):
    with Image.open(work.decode(render).frames / "pose-0.png") as image:
        image.load()
        assert image.info["srgb"] == 1


@pytest.mark.parametrize("codec", ["h264", "h265", "prores"])
def test_videos_keep_the_colours_and_say_which_matrix(work, render, codec):
    done = work.decode(render, task="color", codec=codec, quality=10.0)
    assert done.video.suffix == (".mov" if codec == "prores" else ".mp4")
    shown = iio.imread(done.video, plugin="FFMPEG")[1]
    frame = read_image(done.frames / "pose-1.png")
    assert np.abs(shown.mean((0, 1)) - frame.mean((0, 1))).max() < 3
    assert b"nclx" in done.video.read_bytes() or b"nclc" in done.video.read_bytes()


@pytest.mark.parametrize("codec", ["gif", "webp"])
def test_animations_have_all_frames_and_repeat(work, render, codec):
    done = work.decode(render, task="color", codec=codec)
    with Image.open(done.video) as image:
        assert (image.n_frames, image.info["loop"]) == (3, 0)
        shown = np.array(image.convert("RGB")).astype(int)
        assert image.info["duration"] == 100
    assert np.abs(shown.mean((0, 1)) - read_image(done.frames / "pose-0.png").mean((0, 1))).max() < 6


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"codec": "theora"}, "--codec 'theora' is not one of h264"),
        ({"format": "bmp"}, "--format 'bmp' is not one of png, png16"),
        ({"fps": 5.0, "video": False}, "--fps does nothing with --no-video"),
        ({"codec": "gif", "raw": "npz"}, "--codec does nothing with --raw"),
        ({"depth_scale": 5.0}, "--depth-scale does nothing with all but depth as png16"),
        ({"clusters": 3}, "--clusters does nothing here: task 'recolor'"),
        ({"quality": 0.5}, "--quality 0.5 is not from 1 to 10"),
        ({"raw": "npz", "task": "points"}, "--raw does nothing with --task points"),
        ({"raw": "npz", "clusters": 3}, "--clusters does nothing with --raw"),
        ({"raw": "npz", "seed": 3}, "--seed does nothing with --raw"),
        ({"raw": "npz", "video": True}, "--video does nothing with --raw"),
        ({"source_views": ("00",), "video": True}, "--video does nothing with --source-view"),
        ({"task": "color", "seed": 3}, "--seed does nothing here: task 'color'"),
        ({"task": "features", "seed": 3}, "--seed does nothing here: task 'features'"),
        ({"task": "points", "model": "patches", "seed": 3}, "--seed does nothing with --task points without classes"),
        ({"task": "points", "model": "patches", "view": "00"}, "--view does nothing with --task points without"),
        ({"soft_masks": True}, "--soft-masks does nothing here: task 'recolor' gives pictures"),
    ],
)
def test_options_that_do_nothing_are_refused(work, render, given, message):
    with pytest.raises(UsageError, match=message):
        work.decode(render, **given)


@pytest.mark.parametrize("given", [{"video": True}, {"codec": "gif"}, {"fps": 5.0}, {"quality": 5.0}])
def test_options_of_a_video_that_cannot_be_are_refused(work, given):
    flag = f"--{next(iter(given))}"
    one = work.render(POSES[:1])
    with pytest.raises(UsageError, match=f"{flag} does nothing here: the path has one pose"):
        work.decode(one, task="color", **given)
    sizes = (POSES[0], look_at((0.1, 0.0, -4.0), width=32, height=24, focal=30.0))
    with pytest.raises(UsageError, match=f"{flag} does nothing here: the poses are of different sizes"):
        work.decode(work.render(sizes), task="color", **given)
    assert not work.out.exists()
    assert work.decode(one, task="color", video=False).remark == ""


def test_no_file_is_left_where_a_video_of_odd_frames_is_made(work):
    cameras = tuple(look_at((x, 0.0, -4.0), width=47, height=35, focal=45.0) for x in (0.0, 0.1))
    done = work.decode(work.render(cameras), task="color", codec="gif")
    assert sorted(p.name for p in work.out.iterdir()) == ["color", "color.gif"]
    assert done.note == ""


def test_features_of_any_model_can_be_shown(work, render):
    done = work.decode(render, task="features")
    frames = [read_image(done.frames / f"pose-{i}.png") for i in range(3)]
    assert all(frame.shape == (36, 48, 3) and frame.std() > 10 for frame in frames)


@pytest.mark.parametrize("name", ["pose-0.jpg", "pose-0.png", "transforms.json"])
def test_files_that_no_run_recorded_are_kept_whatever_their_name(work, name):
    render = work.render()
    own = work.out / "color" / name
    own.parent.mkdir(parents=True)
    own.write_bytes(b"mine")
    with pytest.raises(UsageError, match="files of other frames"):
        work.decode(render, task="color")
    assert own.read_bytes() == b"mine"


def contents(folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("given", [{"format": "exr", "task": "color"}, {"raw": "exr"}])
def test_what_exr_needs_is_looked_for_before_anything_is_touched(work, render, monkeypatch, given):
    work.decode(render, task="color")
    work.decode(render, raw="npz")
    before = contents(work.out)
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    with pytest.raises(ResourceError, match="needs the package OpenEXR"):
        work.decode(render, **given)
    assert contents(work.out) == before


def test_an_encoder_that_ffmpeg_lacks_is_known_before_anything_is_touched(work, render, monkeypatch):
    work.decode(render, task="color")
    before = contents(work.out)
    monkeypatch.setitem(video._CODECS, "h265", replace(video._CODECS["h265"], encoder="no-such-encoder"))
    with pytest.raises(ResourceError, match=r"--codec h265: this ffmpeg has no encoder .* hint: another --codec"):
        work.decode(render, task="color", codec="h265")
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(work.out / "missing"))
    with pytest.raises(ResourceError, match="no ffmpeg for videos"):
        work.decode(render, task="color")
    assert contents(work.out) == before


def test_a_run_that_fails_at_its_first_frame_touches_nothing(work, render):
    work.decode(render)
    before = contents(work.out)
    with pytest.raises(UsageError, match="--clusters does nothing here"):
        work.decode(render, format="png16", clusters=3)
    assert contents(work.out) == before


def test_points_are_of_one_run_too(work, render, other):
    first = work.decode(render, task="points").frames.read_bytes()
    work.decode(render, task="points")  # its own
    with pytest.raises(UsageError, match=r"points\.ply: is of another render\. hint: --output .*--move-aside"):
        work.decode(other, task="points")
    with pytest.raises(UsageError, match=r"points\.ply: is of another model, none\. hint"):
        work.decode(render, task="points", model="patches")
    assert (work.out / "points.ply").read_bytes() == first
    work.decode(other, task="points", move_aside=True)
    work.decode(render, task="points", model="patches", move_aside=True)
    assert {p.name for p in work.out.iterdir()} == {"points.ply", "points.1.ply", "points.2.ply"}
    assert (work.out / "points.1.ply").read_bytes() == first


@pytest.mark.parametrize(("task", "name"), [("points", "points.ply"), ("color", "color.mp4")])
def test_single_files_that_no_run_recorded_are_kept(work, name, task):
    render = work.render()
    work.out.mkdir()
    (work.out / name).write_bytes(b"mine")
    with pytest.raises(UsageError, match=f"{name}: is not known to be of this run. hint: --output"):
        work.decode(render, task=task)
    assert [p.name for p in work.out.iterdir()] == [name]
    work.decode(render, task=task, move_aside=True)
    stem, suffix = name.split(".")
    assert (work.out / f"{stem}.1.{suffix}").read_bytes() == b"mine"


def test_features_encoded_with_other_settings_are_another_run(work, render):
    before = contents(work.decode(render, raw="npy").frames)
    work.encode(max_size=32)
    again = work.render(fps=10.0)
    assert again.key == render.key
    with pytest.raises(
        UsageError, match=r"patches: holds files of patches by other settings or another version of it\. hint: --out"
    ):
        work.decode(again, raw="npy")
    assert contents(work.out / "features" / "patches") == before
    work.decode(again, raw="npy", move_aside=True)
    assert contents(work.out / "features" / "patches.1") == before


def test_nothing_of_other_options_stays_beside_the_frames(work, render):
    work.decode(render, task="color")
    (work.out / "color-soft" / "pose-0").mkdir(parents=True)
    (work.out / "color-soft" / "pose-0" / "000.png").write_bytes(b"made")
    record = json.loads((work.out / "color" / "transforms.json").read_text())
    record["lift3d"]["beside"].append("color-soft")
    (work.out / "color" / "transforms.json").write_text(json.dumps(record))
    work.decode(render, task="color", codec="gif")  # the same frames: their other video stays
    assert {p.name for p in work.out.iterdir()} == {"color", "color.mp4", "color.gif", "color-soft"}
    record["lift3d"] |= {"settings": "of other options", "beside": ["color.mp4", "color.gif", "color-soft"]}
    (work.out / "color" / "transforms.json").write_text(json.dumps(record))
    work.decode(render, task="color", codec="gif")
    assert {p.name for p in work.out.iterdir()} == {"color", "color.gif"}
