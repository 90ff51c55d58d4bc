"""How far a render can be believed: warnings where the photos see too little or disagree, confidence as pictures."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from plane_world import look_at, read_image, write_image
from workbench import POSES, Work, stamps

from lift3d_cli.cache.renders import Render
from lift3d_cli.pipeline.trust import judge, write_confidence

AWAY = look_at((1.5, 0.0, -4.0), (2.2, 0.0, 0.0), width=48, height=36, focal=45.0)


def without_confidence(render: Render) -> None:
    """Make the frames those of a version that did not know it."""
    for index in range(render.num_frames):
        depth, grid, maps = render.read_frame(index)
        maps = {name: values.clone() for name, values in maps.items() if name != "confidence"}
        render.write_frame(index, depth.clone(), grid, maps)


def test_frames_that_all_photos_see_raise_no_warning(work: Work):
    trust = judge(work.render(planes=32, samples=8, views=6))
    assert trust.warnings == []
    assert len(trust.coverage) == len(trust.confidence) == 3
    assert all(0.3 < b < c <= 1 for b, c in zip(trust.confidence, trust.coverage, strict=True))


def test_pose_that_looks_away_is_counted_and_named(work: Work):
    trust = judge(work.render((*POSES, AWAY), names=("a", "b", "c", "away"), planes=32, samples=8, views=6))
    assert trust.coverage[3] < 0.7 < 0.95 < trust.coverage[0]
    unseen = trust.warnings[0]
    assert f"less than 90% of 1 of 4 frames, {trust.coverage[3]:.0%} of the worst (away)" in unseen
    assert "hint: take photos there" in unseen
    assert "\n" not in "".join(trust.warnings)


@pytest.mark.parametrize(("views", "is_offered"), [(2, True), (9, False)])
def test_more_views_are_offered_only_where_all_that_were_allowed_were_used(work: Work, views, is_offered):
    # 8 photos: of 9 allowed ones no frame can use all.
    unseen = judge(work.render((AWAY,), names=("away",), views=views)).warnings[0]
    assert ("--views" in unseen) is is_offered


def test_photos_that_contradict_each_other_make_frames_doubtful(work: Work):
    for path in sorted((work.scene / "images").iterdir())[::2]:
        write_image(path, 255 - read_image(path))
    trust = judge(work.render())
    assert min(trust.coverage) > 0.9
    (vague,) = trust.warnings
    assert "over 25% of 3 of 3 frames is doubtful" in vague
    assert "hint: --confidence shows where" in vague


def test_pictures_hold_what_the_frames_hold(work: Work):
    render = work.render()
    write_confidence(render)
    for index in range(3):
        picture = cv2.imread(str(render.confidence_path(index)), cv2.IMREAD_UNCHANGED)
        stored = render.read_maps(index).confidence
        assert stored.dtype == torch.uint8
        np.testing.assert_array_equal(picture, stored.numpy())
        assert picture.std() > 1


def test_pictures_that_are_there_stay(work: Work):
    render = work.render()
    write_confidence(render)
    before = stamps(render.root)
    render.confidence_path(1).unlink()
    write_confidence(render)
    after = stamps(render.root)
    assert after.keys() == before.keys()
    assert [name for name in before if after[name] != before[name]] == ["confidence/00001.png"]


def test_older_render_without_confidence_can_be_decoded(work: Work):
    work.encode()
    render = work.render()
    without_confidence(render)
    assert len(list(work.decode(render, task="recolor").frames.glob("*.png"))) == 3


def test_older_render_is_not_taken_for_one_with_confidence(work: Work):
    content = dict(work.render().content)
    assert "confidence" in content["maps"]
    older = Render.create(work.out / "older", {k: v for k, v in content.items() if k != "maps"})
    assert older.key != work.render().key
