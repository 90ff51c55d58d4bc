"""decode: what the model's own decoder makes of the rendered features, in frames and a video, or one clear line."""

from __future__ import annotations

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from plane_world import as_tensor, look_at, read_image, rig
from workbench import POSES, Interrupted, Progress, edit

from lift3d_cli.cache.renders import Render
from lift3d_cli.config import DecodeConfig
from lift3d_cli.errors import CacheError, ModelError
from lift3d_cli.models.base import FeatureMap, RenderedView
from lift3d_cli.models.registry import find_model
from lift3d_cli.pipeline.decode import decode


@pytest.fixture
def render(work) -> Render:
    """Three poses, with the features of `patches`."""
    work.encode()
    return work.render(fps=10.0)


def frames_of(folder) -> list[np.ndarray]:
    return [read_image(path) for path in sorted(folder.glob("*.png"))]


@pytest.mark.parametrize("task", ["recolor", "negative"])
def test_frames_are_the_models_decoding_of_the_rendered_features(work, render, task):
    decoded = work.decode(render, task=task)
    model = find_model(work.model).load()
    (features,) = render.feature_renders()
    for i in range(3):
        data, grid, _ = features.read_frame(i)
        image = as_tensor(read_image(render.color_path(i)))
        coverage = render.read_frame(i)[2]["coverage"].float() / 255
        want = model.decode(FeatureMap(data.float(), grid), RenderedView(image, coverage), task)
        got = read_image(decoded.frames / f"pose-{i}.png")
        assert np.abs(got - (want.permute(1, 2, 0).numpy() * 255)).max() <= 0.5 + 1e-3


def test_decoder_is_given_the_rendered_colour_and_coverage(work, render, model_file):
    edit(model_file, "        color = features", "        return view.image * view.coverage\n        color = features")
    work.encode()
    decoded = work.decode(work.render())
    for i, frame in enumerate(frames_of(decoded.frames)):
        coverage = render.read_frame(i)[2]["coverage"][..., None].numpy() / 255
        assert np.abs(frame - read_image(render.color_path(i)) * coverage).max() <= 0.51


def test_frames_have_the_poses_names(work):
    work.encode()
    decoded = work.decode(work.render(names=("first", "folder/second", "third")))
    found = sorted(str(path.relative_to(decoded.frames)) for path in decoded.frames.rglob("*.png"))
    assert found == ["first.png", "folder/second.png", "third.png"]


def test_video_shows_the_frames_at_the_paths_speed(work, render):
    decoded = work.decode(render)
    assert decoded.video == work.out / "recolor.mp4"
    video = iio.imread(decoded.video, plugin="FFMPEG")
    assert iio.immeta(decoded.video, plugin="FFMPEG")["fps"] == pytest.approx(10)
    for shown, frame in zip(video, frames_of(decoded.frames), strict=True):
        # Brightness at every pixel, colour as a whole: a video has a quarter of the colour's pixels.
        assert np.abs(shown.mean(2) - frame.mean(2)).mean() < 6
        assert np.abs(shown.mean((0, 1)) - frame.mean((0, 1))).max() < 4


def test_speed_of_the_video_can_be_chosen(work, render):
    assert iio.immeta(work.decode(render, fps=30.0).video, plugin="FFMPEG")["fps"] == pytest.approx(30)


def test_video_of_odd_frames_is_made_even(work):
    work.encode()
    cameras = tuple(look_at((x, 0.0, -4.0), width=47, height=35, focal=45.0) for x in (0.0, 0.1))
    decoded = work.decode(work.render(cameras))
    assert frames_of(decoded.frames)[0].shape == (35, 47, 3)
    assert iio.imread(decoded.video, plugin="FFMPEG").shape[1:] == (36, 48, 3)


def test_video_can_be_left_out(work, render):
    decoded = work.decode(render, video=False)
    assert (decoded.video, decoded.note) == (None, "")
    assert [path.name for path in work.out.iterdir()] == ["recolor"]


def test_poses_of_different_sizes_make_no_video_but_a_note(work):
    work.encode()
    cameras = (POSES[0], look_at((0.1, 0.0, -4.0), width=30, height=40, focal=45.0))
    decoded = work.decode(work.render(cameras))
    assert decoded.video is None
    assert decoded.note == "no video: the poses are of different sizes"
    assert [frame.shape for frame in frames_of(decoded.frames)] == [(36, 48, 3), (40, 30, 3)]


def test_single_pose_makes_a_picture_and_no_video(work):
    work.encode()
    decoded = work.decode(work.render(POSES[:1]))
    assert (decoded.video, decoded.note, decoded.remark) == (None, "", "no video: the path has one pose")
    assert len(frames_of(decoded.frames)) == 1


# ---- which features, which task --------------------------------------------------------------------------------------


def test_task_and_model_are_found_where_there_is_one_choice(work, render):
    assert work.decode(render).frames.name == "recolor"
    work.encode("rgb")
    both = work.render()
    assert work.decode(both, task="rgb").frames.name == "rgb"
    assert work.decode(both, task="negative").frames.name == "negative"
    assert work.decode(both, model="patches").frames.name == "recolor"
    assert work.decode(both, model="rgb").frames.name == "rgb"


def test_more_than_one_choice_is_asked_back_with_all_of_them(work, render):
    work.encode("rgb")
    hint = "--model patches --task recolor, --model rgb --task rgb"
    with pytest.raises(CacheError, match=rf"which of its features\? hint: {hint}"):
        work.decode(work.render())


def test_weights_that_are_not_for_commercial_use_are_taken_only_by_name_or_if_there_are_no_others(work, model_file):
    edit(model_file, 'license="MIT"', 'license="CC-BY-NC-4.0"')
    work.encode()
    assert work.decode(work.render()).frames.name == "recolor"
    work.encode("rgb")
    both = work.render()
    assert work.decode(both).frames.name == "rgb"
    assert work.decode(both, model="patches").frames.name == "recolor"


def test_task_that_no_model_of_the_render_can_do_names_the_models(work, render):
    with pytest.raises(CacheError, match=r"none of its models \(patches\) can do 'segment'"):
        work.decode(render, task="segment")


def test_model_whose_features_are_not_in_the_render_names_those_that_are(work, render):
    with pytest.raises(CacheError, match="has no features of rgb, only of patches"):
        work.decode(render, model="rgb")


def test_render_in_colour_only_names_the_way_to_features(work):
    with pytest.raises(CacheError, match=r"has colour only.*hint: lift3d encode SCENE --model MODEL"):
        work.decode(work.render())


@pytest.mark.parametrize("change", ["version", "max_size", "dtype"])
def test_features_of_one_model_made_in_two_ways_decode_the_latest(work, model_file, change):
    work.encode()
    work.render()
    settings = {"max_size": 24} if change == "max_size" else {"dtype": "fp32"} if change == "dtype" else {}
    if change == "version":
        edit(model_file, 'version="1"', 'version="2"')
        edit(model_file, "torch.cat([mean, wide])", "torch.cat([0 * mean, wide])")
    work.encode(**settings)
    frames = frames_of(work.decode(work.render()).frames)
    if change == "version":
        assert max(frame.max() for frame in frames) == 0
    if change == "max_size":  # 6 cells across 48 pixels: little is left of the waves
        assert np.mean([np.abs(np.diff(frame.astype(int), axis=1)).mean() for frame in frames]) < 8


# ---- refusals --------------------------------------------------------------------------------------------------------


def test_unfinished_render_is_refused(work):
    work.encode()
    with pytest.raises(Interrupted):
        work.render(progress=Progress(stop=1))
    (root,) = (work.scene / ".lift3d" / "renders").iterdir()
    with pytest.raises(CacheError, match=r"2 of 3 frames are not rendered yet, or damaged\. hint: run lift3d"):
        decode(root, work.out, DecodeConfig())
    assert not work.out.exists()


def test_render_with_a_missing_or_damaged_colour_frame_is_refused(work, render):
    path = render.color_path(1)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(CacheError, match=r"1 of 3 frames are not rendered yet, or damaged"):
        work.decode(render)
    path.unlink()
    with pytest.raises(CacheError, match=r"1 of 3 frames are not rendered yet, or damaged"):
        work.decode(render)


def test_folder_without_a_render_is_refused(work, tmp_path):
    with pytest.raises(CacheError, match=r"manifest\.json: not there\. hint: lift3d render"):
        decode(tmp_path / "nothing", work.out, DecodeConfig())


def test_model_file_that_changed_since_is_refused_in_one_line(work, render, model_file):
    edit(model_file, "1 - color", "0.5 - color")
    with pytest.raises(ModelError, match=r"model patches\S*: changed since its features were rendered\. hint:"):
        work.decode(render)


def test_model_file_that_is_gone_is_refused_in_one_line(work, render, model_file):
    model_file.unlink()
    with pytest.raises(ModelError, match=r"there is no file .*patches\.py"):
        work.decode(render)


@pytest.mark.parametrize("result", ["color[:, :-1]", "color * float('nan')", "color[:1]"])
def test_decoder_that_gives_no_picture_is_named(work, model_file, result):
    edit(model_file, "        return color if", f"        return {result}\n        return color if")
    work.encode()
    with pytest.raises(ModelError, match=r"model patches: decode\(\) gave"):
        work.decode(work.render())


def test_failed_decode_leaves_no_video(work, render, model_file):
    work.decode(render)
    before = (work.out / "recolor.mp4").read_bytes()
    edit(model_file, "        return color if", "        assert view.image.mean() < 0\n        return color if")
    work.encode()
    with pytest.raises(AssertionError):
        work.decode(work.render(), move_aside=True)  # another version of the model is another run
    assert (work.out / "recolor.mp4").read_bytes() == before
    assert sorted(path.name for path in work.out.iterdir()) == ["recolor", "recolor.mp4"]


def test_random_decoder_draws_the_same_noise_in_every_frame_and_run(work, model_file):
    edit(model_file, "        return color if", "        return torch.rand(view.image.shape)\n        return color if")
    work.encode()
    render = work.render()
    first = frames_of(work.decode(render).frames)
    assert all(np.array_equal(frame, first[0]) for frame in first)
    assert all(np.array_equal(*pair) for pair in zip(frames_of(work.decode(render).frames), first, strict=True))
    assert not np.array_equal(frames_of(work.decode(render, seed=1).frames)[0], first[0])


def test_decoding_photos_poses_gives_what_the_model_makes_of_the_photos(work):
    work.encode()
    render = work.render((rig(8)[3],), views=6, planes=32)
    got = frames_of(work.decode(render).frames)[0]
    model = find_model(work.model).load()
    photo = as_tensor(read_image(work.scene / "images" / "03.png"))
    with torch.inference_mode():
        want = model.decode(model.checked_encode(photo), RenderedView(photo, torch.ones(72, 96)), "recolor")
    assert np.abs(got - want.permute(1, 2, 0).numpy() * 255).mean() < 6
