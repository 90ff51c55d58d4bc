"""View consistency: equal surfaces are compared, hidden ones are not, and differences come out as they are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from lpips_weights import LINE, save_lpips, zeroed_color
from plane_world import WALL, WALL_AND_CARD, as_tensor, look_at, photograph

from lift3d_cli.config import EvalConfig
from lift3d_cli.errors import ModelError
from lift3d_cli.evaluation.consistency import METHODS, _DecodedFrame, compare, correspondences, measure_consistency
from lift3d_cli.evaluation.editing import EditDirection
from lift3d_cli.evaluation.lpips import Lpips
from lift3d_cli.scene.load import load_scene

LEFT, RIGHT = look_at((-0.3, 0.0, -4.0)), look_at((0.3, 0.1, -4.0))


def frame(camera, planes, **decoded) -> _DecodedFrame:
    image, depth = photograph(camera, planes)
    methods = {method: decoded.get("image", as_tensor(image)) for method in METHODS}
    depth = torch.from_numpy(depth).float()
    return _DecodedFrame(camera, depth, torch.ones(camera.height, camera.width), methods, decoded.get("edits", {}))


def test_photos_of_one_wall_agree_where_both_show_it():
    row = compare(frame(LEFT, WALL), frame(RIGHT, WALL))["lifted"]
    assert row["rmse"] < 0.03  # bilinear sampling
    assert 0.7 < row["shared"] <= 1


def test_difference_of_two_plain_colours_is_measured_exactly():
    dark, light = torch.full((3, 72, 96), 0.25), torch.full((3, 72, 96), 0.75)
    row = compare(frame(LEFT, WALL, image=dark), frame(RIGHT, WALL, image=light))["lifted"]
    assert row["rmse"] == pytest.approx(0.5, abs=1e-4)
    assert row["chroma"] == pytest.approx(0, abs=0.1)  # greys of other lightness have no other colour


def test_what_stands_behind_a_card_in_the_other_view_is_not_compared():
    a, b = frame(LEFT, WALL_AND_CARD), frame(RIGHT, WALL_AND_CARD)
    uv, shared = correspondences(a.camera, a.depth, b.camera, b.depth)
    z = EpipolarDepth(a, b)
    hidden = (z - sampled(b.depth, uv)) > 0.5
    assert hidden.any()
    assert not (shared & hidden).any()


def EpipolarDepth(a: _DecodedFrame, b: _DecodedFrame) -> torch.Tensor:  # [H * W] z-depth in b of what a shows
    from lift3d_cli.geometry.epipolar import EpipolarLines
    from lift3d_cli.geometry.grids import pixel_centers

    rays = pixel_centers(a.camera.width, a.camera.height)
    return EpipolarLines.between(a.camera, [b.camera]).project(rays, a.depth.reshape(-1, 1))[1][0, :, 0]


def sampled(depth: torch.Tensor, uv: torch.Tensor) -> torch.Tensor:
    from lift3d_cli.geometry.grids import sample_map

    return sample_map(depth[None, None], uv[None])[0, 0]


def test_frames_that_share_nothing_are_left_out(wall_scene):
    away = look_at((0.0, 0.0, -4.0), (0.0, 0.0, -9.0))
    a, b = frame(LEFT, WALL), frame(away, WALL)
    assert compare(a, b)["lifted"]["shared"] == 0


def test_scene_is_measured_for_all_methods_and_pairs(wall_scene, model_ref):
    config = EvalConfig(every=4, height=0, views=4, model=model_ref, variant="training-free")
    got = measure_consistency(load_scene(wall_scene), config)
    assert set(got) == {"near", "far"}
    for pair in got.values():
        assert set(pair) == set(METHODS)
        assert all(0 < row["rmse"] < 0.2 and 0.3 < row["shared"] <= 1 for row in pair.values())


def test_perceptual_difference_is_that_of_the_surface_that_both_show(tmp_path):
    red, green = (zeroed_color(channel)[:, None, None].expand(3, 72, 96) for channel in (0, 1))
    lpips = Lpips(save_lpips(tmp_path / "lpips.safetensors", "vgg"))
    row = compare(frame(LEFT, WALL, image=red), frame(RIGHT, WALL, image=green), lpips)["lifted"]
    assert row["lpips"] == pytest.approx(5 * (LINE[0] + LINE[1]), rel=0.1)  # the seam of what one shows alone
    assert compare(frame(LEFT, WALL, image=red), frame(RIGHT, WALL, image=red), lpips)["lifted"]["lpips"] < 1e-6


def test_edits_are_compared_with_the_captions_and_with_each_other():
    edit = EditDirection.__new__(EditDirection)
    edit.wanted = torch.tensor([1.0, 0.0])
    a = frame(LEFT, WALL, edits={"lifted": torch.tensor([1.0, 1.0])})
    b = frame(RIGHT, WALL, edits={"lifted": torch.tensor([0.0, 3.0])})
    rows = compare(a, b, edit=edit)
    assert rows["lifted"]["direction_similarity"] == pytest.approx(0.5**0.5)
    assert rows["lifted"]["direction_consistency"] == pytest.approx(0.5**0.5)
    assert "direction_similarity" not in rows["rendered-colour"]


def test_frames_larger_than_the_views_are_compared_in_their_own_size(wall_scene, model_ref):
    config = EvalConfig(every=8, height=0, views=4, variant="training-free", model="tiny-superres")
    got = measure_consistency(load_scene(wall_scene), config)["near"]
    plain = measure_consistency(load_scene(wall_scene), replace(config, model=model_ref))["near"]
    for method in METHODS:
        assert got[method]["shared"] == pytest.approx(plain[method]["shared"], abs=0.03)
        assert got[method]["rmse"] < 0.1  # a shift by a pixel or more would be far above


@pytest.mark.slow
def test_edit_by_text_is_judged_by_clip(wall_scene, tmp_path):
    pytest.importorskip("diffusers", reason="needs the extra hf")
    from tiny_checkpoints import save_clip, save_instruct_pix2pix

    model = f"instruct-pix2pix:{save_instruct_pix2pix(tmp_path / 'edit')}?prompt=a&steps=1"
    config = EvalConfig(every=8, height=0, views=2, variant="training-free", model=model)
    config = replace(config, edit_text=("a wall", "a floor"), clip=f"clip:{save_clip(tmp_path / 'clip')}")
    for pair in measure_consistency(load_scene(wall_scene), config).values():
        for method in METHODS[:3]:
            row = pair[method]
            assert -1 <= row["direction_similarity"] <= 1
            assert -1 <= row["direction_consistency"] <= 1
        assert "direction_similarity" not in pair["rendered-colour"]


def test_segmentation_is_no_picture_to_compare(wall_scene):
    with pytest.raises(ModelError, match="--consistency: compares pictures"):
        measure_consistency(load_scene(wall_scene), EvalConfig(every=4, model="rgb", task="segment"))


def test_task_that_the_model_has_not_is_refused(wall_scene):
    with pytest.raises(ModelError, match="model rgb: cannot stylize, only rgb"):
        measure_consistency(load_scene(wall_scene), EvalConfig(every=4, model="rgb", task="stylize"))
