"""encode: each photo once, and again only if what its features depend on has changed."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from plane_world import as_tensor, photograph, read_image, rig, write_image, write_scene
from workbench import Interrupted, Progress, edit, stamps

from lift3d_cli.errors import ModelError, SceneError
from lift3d_cli.models.registry import find_model


def counts(encoded) -> tuple[int, int]:
    return encoded.num_encoded, encoded.num_reused


def repaint(scene, name: str) -> None:
    """Change a photo a little."""
    path = scene / "images" / name
    image = read_image(path)
    image[0, 0] ^= 1
    write_image(path, image)


def test_second_run_encodes_nothing(work):
    first = work.encode()
    before = stamps(first.folder)
    assert counts(first) == (8, 0)
    again = work.encode()
    assert counts(again) == (0, 8)
    assert again.folder == first.folder
    after = stamps(first.folder)
    assert {k: v for k, v in after.items() if k != "encoder.json"} == {
        k: v for k, v in before.items() if k != "encoder.json"
    }


def test_cached_features_are_those_of_the_model(work):
    work.encode(dtype="fp32")
    workspace = work.workspace
    (encoder,) = workspace.cache.encoders()
    model = find_model(work.model).load()
    for i in (0, 5):
        data, grid = workspace.cache.read_features(encoder, workspace.record(i, (96, 72)))
        want = model.checked_encode(as_tensor(read_image(work.scene / "images" / f"{i:02d}.png")))
        assert torch.equal(data, want.data)
        assert grid == want.grid


def test_photo_whose_bytes_changed_is_encoded_again_and_no_other(work):
    first = work.encode()
    before = stamps(first.folder)
    repaint(work.scene, "03.png")
    assert counts(work.encode()) == (1, 7)
    after = stamps(first.folder)
    assert all(after[name] == stamp for name, stamp in before.items() if name != "encoder.json")
    assert [name[:2] for name in set(after) - set(before)] == ["03"]


def test_photo_whose_bytes_come_back_is_not_encoded_again(work):
    path = work.scene / "images" / "03.png"
    original = path.read_bytes()
    work.encode()
    repaint(work.scene, "03.png")
    work.encode()
    path.write_bytes(original)
    assert counts(work.encode()) == (0, 8)


def test_added_photo_is_encoded_alone(tmp_path, work):
    cameras = rig(8)
    small = write_scene(tmp_path / "grows", cameras[:7])
    work.scene = small
    assert counts(work.encode()) == (7, 0)
    cache = small / ".lift3d"
    cache.rename(tmp_path / "kept")
    for path in sorted(small.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    small.rmdir()
    write_scene(small, cameras)
    (tmp_path / "kept").rename(cache)
    assert counts(work.encode()) == (1, 7)


def test_interrupted_run_keeps_what_is_done(work):
    progress = Progress(stop=3)
    with pytest.raises(Interrupted):
        work.encode(progress=progress)
    assert len(progress.done) == 3
    assert counts(work.encode()) == (5, 3)


def test_moved_camera_keeps_its_features(work):
    work.encode()
    transforms = json.loads((work.scene / "transforms.json").read_text())
    transforms["frames"][2]["transform_matrix"][0][3] += 0.5
    (work.scene / "transforms.json").write_text(json.dumps(transforms))
    assert counts(work.encode()) == (0, 8)


def test_new_version_of_the_model_makes_new_features(work, model_file):
    old = work.encode()
    before = stamps(old.folder)
    edit(model_file, 'version="1"', 'version="2"')
    new = work.encode()
    assert counts(new) == (8, 0)
    assert new.folder != old.folder
    assert stamps(old.folder) == before


def test_edited_model_file_makes_new_features_without_a_new_version(work, model_file):
    old = work.encode()
    edit(model_file, "torch.cat([mean, wide])", "torch.cat([wide, mean])")
    new = work.encode()
    assert counts(new) == (8, 0)
    assert new.folder != old.folder


@pytest.mark.parametrize("settings", [{"dtype": "fp32"}, {"dtype": "bf16"}, {"max_size": 48}, {"seed": 1}])
def test_other_settings_make_other_features(work, settings):
    default, other = work.encode(), work.encode(**settings)
    assert counts(other) == (8, 0)
    assert other.folder != default.folder
    assert counts(work.encode()) == (0, 8)
    assert counts(work.encode(**settings)) == (0, 8)


def test_max_size_shrinks_the_photos_first(work):
    work.encode(max_size=48, dtype="fp32")
    workspace = work.workspace
    (encoder,) = workspace.cache.encoders()
    data, grid = workspace.cache.read_features(encoder, workspace.record(0, (48, 36)))
    assert (grid.width, grid.height) == (12, 9)
    image = as_tensor(photograph(rig(8)[0])[0])
    want = torch.nn.functional.avg_pool2d(image, 8)
    assert (data[:3, :, :] - want).abs().max() < 0.02


def test_max_size_of_the_model_holds_unless_another_is_asked_for(work, model_file):
    edit(model_file, 'license="MIT"', 'license="MIT", max_size=48')
    work.encode()
    assert work.workspace.cache.encoders()[-1].fingerprint["max_size"] == 48
    work.encode(max_size=64)
    workspace = work.workspace
    encoder = workspace.cache.encoders()[-1]
    assert workspace.cache.read_features(encoder, workspace.record(0, (64, 48)))[1].width == 16


def test_force_encodes_all_again(work):
    work.encode()
    assert counts(work.encode(force=True)) == (8, 0)


def test_damaged_features_are_made_again(work):
    folder = work.encode().folder
    path = next(folder.glob("02-*.safetensors"))
    path.write_bytes(path.read_bytes()[:-7])
    assert counts(work.encode()) == (1, 7)


def test_features_of_a_photo_do_not_depend_on_which_others_were_there(work, model_file):
    edit(model_file, "grid = self.grid", "noise = torch.randn(1)\n        grid = self.grid")
    edit(model_file, "torch.cat([mean, wide])", "torch.cat([mean, wide]) + noise")
    folder = work.encode().folder
    path = next(folder.glob("05-*.safetensors"))
    want = path.read_bytes()
    path.unlink()
    assert counts(work.encode()) == (1, 7)
    assert path.read_bytes() == want


def test_two_models_lie_side_by_side(work):
    patches, rgb = work.encode(), work.encode("rgb")
    assert counts(rgb) == (8, 0)
    assert {patches.folder.name.rsplit("-", 1)[0], rgb.folder.name.rsplit("-", 1)[0]} == {"patches", "rgb"}


def test_model_that_breaks_its_declaration_is_named(work, model_file):
    edit(model_file, "channels=6", "channels=7")
    with pytest.raises(ModelError, match=r"model patches: encode\(\) gave features"):
        work.encode()


def test_features_too_large_for_the_dtype_are_refused(work, model_file):
    edit(model_file, "torch.cat([mean, wide])", "1e6 * torch.cat([mean, wide])")
    with pytest.raises(ModelError, match=r"do not fit fp16.*--dtype bf16"):
        work.encode()
    assert counts(work.encode(dtype="bf16")) == (8, 0)


def test_truncated_photo_is_named_and_the_ones_before_it_are_kept(work):
    path = work.scene / "images" / "04.png"
    original = path.read_bytes()
    path.write_bytes(original[: len(original) // 2])
    with pytest.raises(SceneError, match=r"04\.png: is cut off"):
        work.encode()
    path.write_bytes(original)
    assert counts(work.encode()) == (4, 4)


def test_masked_photo_is_encoded_as_it_is(work, tmp_path):
    # A model sees the whole photo: a hole in it would look like an object.
    work.encode(dtype="fp32")
    mask = np.zeros((72, 96), np.uint8)
    masked = write_scene(tmp_path / "masked", rig(8), masks={0: mask})
    first, work.scene = work.workspace, masked
    work.encode(dtype="fp32")
    features = [
        p.cache.read_features(p.cache.encoders()[-1], p.record(0, (96, 72)))[0] for p in (first, work.workspace)
    ]
    assert torch.equal(*features)
