"""render: every pose once, again only what is missing, and never frames that belong to something else."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from plane_world import as_tensor, look_at, photograph, read_image, rig, write_image, write_points, write_scene
from workbench import POSES, Interrupted, Progress, edit, stamps

from lift3d_cli.cache.renders import FeatureRender, Render
from lift3d_cli.errors import CacheError, ModelError, ResourceError
from lift3d_cli.lifting.renderer import Renderer
from lift3d_cli.models.registry import find_model


def feature_renders(render: Render) -> dict[str, FeatureRender]:
    """The lifted features in a render, by model."""
    return {r.model: r for r in render.feature_renders()}


def test_every_pose_has_colour_depth_coverage_and_features(work):
    work.encode()
    render = work.render()
    assert render.missing() == []
    for i, camera in enumerate(POSES):
        image = as_tensor(read_image(render.color_path(i)))
        truth, depth = photograph(camera)
        assert -10 * torch.log10(((image - as_tensor(truth)) ** 2).mean()) > 20
        data, _, extra = render.read_frame(i)
        assert (data.shape, extra["coverage"].shape) == ((1, 36, 48), (36, 48))
        assert (data[0] - torch.from_numpy(depth)).abs().median() < 0.2
        assert extra["coverage"].float().mean() > 240
        assert len(set(extra["sources"].tolist())) == 4


def test_lifted_features_are_far_closer_to_the_real_pictures_than_those_of_any_photo(work):
    work.encode()
    target = look_at((0.0, 0.0, -4.0))
    render = feature_renders(work.render((target,), views=6, planes=32))["patches"]
    encode = find_model(work.model).load().checked_encode
    data, grid, _ = render.read_frame(0)
    want = encode(as_tensor(photograph(target)[0]))
    assert grid == want.grid

    def error(features: torch.Tensor) -> float:  # 1 is what the mean feature scores
        return float(((features.float() - want.data) ** 2).mean() / want.data.var())

    assert error(data) < 0.1
    photos = sorted((work.scene / "images").iterdir())
    assert error(data) < 0.4 * min(error(encode(as_tensor(read_image(path))).data) for path in photos)


def test_second_run_renders_nothing(work):
    work.encode()
    first = work.render()
    before = stamps(first.root)
    progress = Progress()
    again = work.render(progress=progress)
    assert (again.root, progress.done) == (first.root, [])
    after = stamps(again.root)
    assert all(after[name] == before[name] for name in before if not name.endswith("manifest.json"))


def test_removed_frame_alone_is_made_again(work):
    work.encode()
    render = work.render()
    before = stamps(render.root)
    content = render.frame_path(1).read_bytes()
    render.frame_path(1).unlink()
    progress = Progress()
    work.render(progress=progress)
    assert progress.done == [1]
    after = stamps(render.root)
    changed = {name for name in before if after[name] != before[name] and not name.endswith("manifest.json")}
    assert changed <= {"frames/00001.safetensors", "color/00001.png"}
    assert render.frame_path(1).read_bytes() == content


def test_removed_features_of_a_frame_are_made_again(work):
    work.encode()
    render = work.render()
    features = feature_renders(render)["patches"]
    content = features.frame_path(2).read_bytes()
    features.frame_path(2).unlink()
    progress = Progress()
    work.render(progress=progress)
    assert progress.done == [2]
    assert features.frame_path(2).read_bytes() == content


def test_interrupted_render_goes_on_where_it_was(work):
    work.encode()
    with pytest.raises(Interrupted):
        work.render(progress=Progress(stop=2))
    progress = Progress()
    render = work.render(progress=progress)
    assert progress.done == [2]
    assert render.missing() == feature_renders(render)["patches"].missing() == []


def test_model_that_is_encoded_later_joins_the_same_render_and_leaves_the_rest_alone(work):
    work.encode()
    render = work.render()
    before = stamps(render.root)
    work.encode("rgb")
    again = work.render()
    assert again.root == render.root
    assert set(feature_renders(again)) == {"patches", "rgb"}
    assert feature_renders(again)["rgb"].missing() == []
    after = stamps(render.root)
    assert all(after[name] == before[name] for name in before if not name.endswith("manifest.json"))


def test_joined_model_has_the_features_it_would_have_had_from_the_start(work):
    work.encode()
    work.render()
    work.encode("rgb")
    later = feature_renders(work.render())["rgb"]
    together = feature_renders(work.render(output=work.out / "together"))["rgb"]
    for i in range(3):
        assert torch.equal(later.read_frame(i)[0], together.read_frame(i)[0])


def test_colours_that_are_there_are_not_rendered_for_a_model_that_joins(work, monkeypatch):
    work.render()
    work.encode()
    monkeypatch.setattr(Renderer, "render", None)
    assert len(list((work.render().root / "feats").rglob("*.safetensors"))) == 3


def test_only_the_models_asked_for_are_lifted(work):
    work.encode()
    work.encode("rgb")
    assert set(feature_renders(work.render(models=("rgb",)))) == {"rgb"}


def test_scene_without_features_is_rendered_in_colour(work):
    render = work.render()
    assert render.missing() == []
    assert feature_renders(render) == {}


def test_model_that_is_not_encoded_is_refused_with_the_command_that_would(work):
    with pytest.raises(CacheError, match=r"has no features of rgb\. hint: lift3d encode .* --model rgb"):
        work.render(models=("rgb",))


def test_photo_that_is_not_encoded_is_named(work):
    folder = work.encode().folder
    next(folder.glob("03-*.safetensors")).unlink()
    with pytest.raises(CacheError, match=r"1 of . photos are not encoded with patches \(first: images/03\.png\)"):
        work.render(views=8)


def test_photo_that_changed_since_it_was_encoded_is_named(work):
    work.encode()
    path = work.scene / "images" / "03.png"
    write_image(path, 255 - read_image(path))
    with pytest.raises(CacheError, match=r"not encoded with patches \(first: images/03\.png\)"):
        work.render(views=8)


def test_model_that_changed_since_is_refused(work, model_file):
    work.encode()
    edit(model_file, "avg_pool2d(mean[None], 3, 1, 1", "max_pool2d(mean[None], 3, 1, 1")
    edit(model_file, ", count_include_pad=False", "")
    with pytest.raises(ModelError, match=r"patches: changed since .*hint: lift3d encode"):
        work.render()


@pytest.mark.parametrize(
    "settings", [{"views": 3}, {"planes": 8}, {"samples": 5}, {"cameras": POSES[:2]}, {"cameras": POSES[::-1]}]
)
def test_other_poses_or_settings_are_another_render(work, settings):
    assert work.render().root != work.render(**settings).root


def test_changed_photo_or_pose_is_another_render(work):
    folders = [work.render().root]
    path = work.scene / "images" / "03.png"
    write_image(path, 255 - read_image(path))
    folders.append(work.render().root)
    transforms = json.loads((work.scene / "transforms.json").read_text())
    transforms["frames"][3]["transform_matrix"][0][3] += 0.1
    (work.scene / "transforms.json").write_text(json.dumps(transforms))
    folders.append(work.render().root)
    assert len(set(folders)) == 3


def test_changed_surface_points_are_another_render(work):
    # They decide between which depths the surface is searched.
    first = work.render().root
    assert work.render().root == first
    xyz = np.random.default_rng(0).uniform((-1, -1, -2), (1, 1, 2), (200, 3))
    write_points(work.scene / "points.ply", xyz)
    assert work.render().root != first


def test_scene_without_points_finds_them_once(work, tmp_path, monkeypatch):
    work.scene = write_scene(tmp_path / "pointless", rig(8), has_points=False)
    work.encode()
    render = work.render()
    error = read_image(render.color_path(0)).astype(int) - photograph(POSES[0])[0]
    assert np.abs(error).mean() < 8
    (points,) = (work.scene / ".lift3d").glob("points-*.safetensors")
    stamp = points.stat().st_mtime_ns
    monkeypatch.setattr("lift3d_cli.pipeline.workspace.surface_points", lambda *_, **__: pytest.fail("searched again"))
    assert work.render().root == render.root
    assert points.stat().st_mtime_ns == stamp


def test_memory_changes_neither_the_render_nor_its_frames(work):
    work.encode()
    default = work.render()
    assert work.render(memory="64MiB").root == default.root
    small = work.render(memory="64MiB", output=work.out / "small")
    for i in range(3):
        torch.testing.assert_close(small.read_frame(i)[0], default.read_frame(i)[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("change", ["dtype", "max_size", "version"])
def test_features_made_otherwise_join_the_render_under_their_own_name(work, model_file, change):
    work.encode()
    first = work.render()
    old = feature_renders(first)["patches"]
    before = stamps(old.root)
    if change == "version":
        edit(model_file, 'version="1"', 'version="2"')
    if change != "dtype":
        work.encode(max_size=48 if change == "max_size" else None)
    second = work.render(dtype="fp32" if change == "dtype" else "fp16")
    assert second.root == first.root
    found = first.feature_renders()
    assert len(found) == 2
    new = next(r for r in found if r.root != old.root)
    assert new.missing() == []
    assert stamps(old.root) == before
    data, grid, _ = new.read_frame(0)
    assert data.dtype == (torch.float32 if change == "dtype" else torch.float16)
    assert grid.width == (12 if change == "max_size" else 24)


def test_names_and_speed_of_the_path_are_those_of_the_last_run(work):
    work.render(fps=24.0, names=("a", "b", "c"))
    render = work.render(fps=12.0, names=("x", "y", "z"))
    assert (render.fps, render.names) == (12.0, ["x", "y", "z"])


def test_render_in_a_folder_of_the_users_choice(work):
    render = work.render(output=work.out / "mine")
    assert render.root == work.out / "mine"
    assert render.missing() == []
    assert not (work.scene / ".lift3d" / "renders").exists()
    with pytest.raises(CacheError, match="holds another render"):
        work.render(POSES[:1], output=work.out / "mine")


def test_poses_of_different_sizes_are_rendered_each_in_its_own(work):
    cameras = (POSES[0], look_at((0.1, 0.0, -4.0), width=30, height=40, focal=45.0))
    render = work.render(cameras)
    assert [read_image(render.color_path(i)).shape for i in range(2)] == [(36, 48, 3), (40, 30, 3)]


def test_device_that_is_not_there_is_refused_before_anything_is_written(work):
    with pytest.raises(ResourceError, match="--device cuda:99"):
        work.render(device="cuda:99")
    assert not (work.scene / ".lift3d").exists()


def test_manifest_explains_the_render(work):
    render = work.render()
    assert (render.views, render.num_frames, render.samples, render.planes) == (4, 3, 4, 16)
    assert render.has_confidence
    assert render.scene == work.scene.resolve()
    assert render.names == ["pose-0", "pose-1", "pose-2"]
    np.testing.assert_array_equal(render.cameras[1].K, POSES[1].K)
    np.testing.assert_array_equal(render.cameras[1].w2c, POSES[1].w2c)
    near, far = render.depth_range(1)
    assert near < 4.0 < far


def test_manifest_explains_the_features(work):
    work.encode(max_size=48)
    features = feature_renders(work.render())["patches"]
    (encoder,) = work.workspace.cache.encoders()
    assert (features.ref, features.encoder, features.max_size) == (work.model, encoder.key, 48)
    assert features.fingerprint == encoder.fingerprint


def test_model_whose_file_moved_is_found_after_the_next_encode(work, model_file, tmp_path):
    work.encode()
    moved = model_file.rename(tmp_path / "moved.py")
    with pytest.raises(ModelError, match="there is no file"):
        work.render()
    work.model = f"{moved}:Patches"
    assert work.encode().num_encoded == 0
    assert feature_renders(work.render())["patches"].missing() == []
