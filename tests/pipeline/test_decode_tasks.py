"""decode beyond frames: segmentations, results larger than the view, photos by their own features, raw features."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from plane_world import as_tensor, read_image
from workbench import Work

from lift3d_cli.cache.renders import Render
from lift3d_cli.config import DecodeConfig
from lift3d_cli.errors import ModelError, SceneError, UsageError
from lift3d_cli.models.base import RenderedView, Segmentation
from lift3d_cli.models.edges import refined
from lift3d_cli.models.registry import find_model
from lift3d_cli.pipeline.decode import decode
from lift3d_cli.pipeline.decode_options import NotedOptions
from lift3d_cli.pipeline.exr import layer_names

SOURCE = """
import torch
from torch.nn import functional as F
from lift3d_cli import FeatureMap, ModelSpec
from lift3d_cli.models.heads import FeatureModel


class Seer(FeatureModel):
    spec = ModelSpec(name="seer", channels=3, stride=4, tasks=("features", "segment", "superres"), scale=2)

    def encode(self, image):
        padded = F.pad(image[None], (0, -image.shape[2] % 4, 0, -image.shape[1] % 4), mode="replicate")
        return FeatureMap(F.avg_pool2d(padded, 4)[0], self.grid(image.shape[2], image.shape[1]))

    def decoder(self, context):
        if context.options.point is not None:
            features, image = context.photo(context.options.point_view)
            u, v = context.options.point
            wanted = image[:, int(v * image.shape[1]), int(u * image.shape[2])]
            return lambda features, view: wanted[:, None, None].expand(view.image.shape)
        if context.task == "superres":
            return lambda features, view: F.interpolate(view.image[None], scale_factor=2)[0]
        return super().decoder(context)
"""


@pytest.fixture
def seer(work, tmp_path) -> Work:
    """A scene encoded with a model that segments."""
    path = tmp_path / "seer.py"
    path.write_text(SOURCE)
    work.model = f"{path}:Seer"
    work.encode()
    return work


def run(work: Work, render: Render, **settings):
    return decode(render.root, work.out, DecodeConfig(**settings), open_workspace=lambda scene: work.workspace)


def test_segmentation_is_an_index_png_an_overlay_and_a_legend(seer):
    render = seer.render()
    done = run(seer, render, task="segment", clusters=3)
    assert done.frames == seer.out / "segment"
    legend = json.loads((seer.out / "segment-legend.json").read_text())
    assert [row["name"] for row in legend] == ["cluster 1", "cluster 2", "cluster 3"]
    with Image.open(done.frames / "pose-0.png") as image:
        assert image.mode == "P"
        labels = np.array(image)
        assert image.getpalette()[:9] == [value for row in legend for value in row["color"]]
    assert set(np.unique(labels)) <= {0, 1, 2}
    assert len(np.unique(labels)) > 1
    color = read_image(render.color_path(0))
    overlay = read_image(seer.out / "segment-overlay" / "pose-0.png")
    tint = np.array([row["color"] for row in legend])[labels]
    assert np.abs(overlay.astype(float) - (color.astype(float) + tint) / 2).max() <= 1
    assert done.video == seer.out / "segment.mp4"
    assert not (seer.out / "segment-soft").exists()


def test_soft_masks_add_up_and_are_largest_where_the_class_is(seer):
    done = run(seer, seer.render(), task="segment", clusters=2, soft_masks=True)
    with Image.open(done.frames / "pose-1.png") as image:
        labels = np.array(image)
    masks = [read_image(seer.out / "segment-soft" / "pose-1" / f"00{i}.png")[..., 0].astype(int) for i in range(2)]
    assert np.abs(masks[0] + masks[1] - 255).max() <= 1
    assert (masks[1][labels == 1] >= masks[0][labels == 1]).all()


def test_masks_in_exr_are_layers_that_compositing_tools_take(seer):
    openexr = pytest.importorskip("OpenEXR")
    done = run(seer, seer.render(), task="segment", clusters=2, format="exr")
    file = openexr.File(str(done.frames / "pose-0.exr"), separate_channels=True)
    layers = {"mask.cluster_1", "mask.cluster_2"}
    assert {name for name in file.channels() if name.startswith("mask")} == layers
    assert {row["layer"] for row in json.loads((seer.out / "segment-legend.json").read_text())} == layers
    names = ("a b", "a.b", "#00ff00", "猫", "犬", "other", "A-1 ")
    assert layer_names(names) == ["a_b", "a_b_2", "_00ff00", "class", "class_2", "other", "A_1"]


def test_what_other_options_left_beside_the_frames_goes(seer):
    render = seer.render()
    run(seer, render, task="segment", clusters=3, refine=True, soft_masks=True)
    run(seer, render, task="segment", clusters=3, codec="gif")
    assert {p.name for p in seer.out.iterdir()} == {"segment", "segment-overlay", "segment-legend.json", "segment.gif"}


def test_classes_have_no_16_bits(seer):
    with pytest.raises(UsageError, match="--format png16 does nothing here: task 'segment' gives classes"):
        run(seer, seer.render(), task="segment", clusters=3, format="png16")
    assert not seer.out.exists() or not list(seer.out.iterdir())


@pytest.mark.parametrize("name", ["point", "strokes"])
def test_what_nobody_looked_at_is_at_fault_and_not_its_view(name):
    options = NotedOptions(**{name: torch.ones(2), f"{name}_view": "00.png"}, clusters=3)
    assert options.clusters == 3
    with pytest.raises(UsageError, match=f"--{name} does nothing here"):
        options.check_used("segment")


def test_refined_masks_are_those_of_the_edges(seer):
    render = seer.render()
    scores = []
    for refine in (False, True):
        run(seer, render, task="segment", clusters=2, soft_masks=True, refine=refine)
        mask = read_image(seer.out / "segment-soft" / "pose-1" / "001.png")[..., 0]
        scores.append(torch.from_numpy(mask.astype(np.float32)) / 255)
    image = as_tensor(read_image(render.color_path(1)))
    was = Segmentation(torch.stack([1 - scores[0], scores[0]]), ("a", "b"))
    torch.testing.assert_close(refined(was, image).scores[1], scores[1], atol=0.01, rtol=0)
    assert (scores[0] - scores[1]).abs().max() > 0.05


def test_strokes_on_a_photo_segment_the_frames(seer, tmp_path):
    strokes = np.zeros((72, 96, 4), np.uint8)
    strokes[:, 10:20] = (255, 0, 0, 255)
    strokes[:, 60:80] = (0, 0, 255, 255)
    strokes[:, 30:40] = (0, 255, 0, 0)  # transparent: not painted
    Image.fromarray(strokes).save(tmp_path / "strokes.png")
    name = seer.workspace.scene.views[0].name
    run(seer, seer.render(), task="segment", strokes=tmp_path / "strokes.png", view=name)
    legend = json.loads((seer.out / "segment-legend.json").read_text())
    assert sorted(row["name"] for row in legend) == ["#0000ff", "#ff0000"]


def test_point_is_in_pixels_of_the_photo(seer):
    view = seer.workspace.scene.views[2]
    done = run(seer, seer.render(), task="features", point=(30.0, 41.0), view=view.name)
    assert (read_image(done.frames / "pose-0.png") == read_image(view.image_path)[41, 30]).all()


@pytest.mark.parametrize(("view", "message"), [("", "which photo.*--view"), ("x.png", "'x.png' names no photo")])
def test_photo_that_is_not_there_is_one_line(seer, view, message):
    with pytest.raises(SceneError, match=message):
        run(seer, seer.render(), task="features", point=(1.0, 1.0), view=view)


def test_superres_is_larger_than_the_view(seer):
    render = seer.render()
    done = run(seer, render, task="superres")
    large, small = read_image(done.frames / "pose-0.png"), read_image(render.color_path(0))
    assert np.array_equal(large[::2, ::2], small)
    assert done.scale == 2


def test_photo_is_decoded_by_its_own_features_in_its_own_size(work):
    work.encode(dtype="fp32")
    view = work.workspace.scene.views[3]
    done = run(work, work.render(), source_views=(view.name,))
    assert done.frames == work.out / "recolor-2d"
    assert done.video is None
    model = find_model(work.model).load()
    image = as_tensor(read_image(view.image_path))
    want = model.decode(model.checked_encode(image), RenderedView(image, torch.ones(image.shape[1:])), "recolor")
    (got,) = done.frames.glob("*.png")
    assert np.abs(read_image(got) - want.permute(1, 2, 0).numpy() * 255).max() <= 0.51


@pytest.mark.parametrize("kind", ["npy", "safetensors"])
def test_raw_features_are_those_of_the_render(seer, kind):
    render = seer.render()
    done = run(seer, render, raw=kind)
    (features,) = render.feature_renders()
    want = features.read_frame(1)[0]
    path = done.frames / f"pose-1.{kind}"
    got = torch.from_numpy(np.load(path)) if kind == "npy" else safetensors.torch.load_file(path)["features"]
    assert torch.equal(got, want)
    assert len(list(done.frames.glob(f"*.{kind}"))) == 3


def test_picture_of_strokes_that_is_none_is_one_line(seer, tmp_path):
    (tmp_path / "strokes.png").write_text("no picture")
    with pytest.raises(SceneError, match=r"strokes.png: is no picture"):
        run(seer, seer.render(), task="segment", strokes=tmp_path / "strokes.png", view="0.png")


def test_segment_without_options_says_what_to_give(seer):
    with pytest.raises(ModelError, match="--clusters"):
        run(seer, seer.render(), task="segment")


def test_soft_masks_of_a_task_with_more_classes_do_not_stay(seer):
    render = seer.render()
    for clusters in (3, 2):
        run(seer, render, task="segment", clusters=clusters, soft_masks=True)
    assert sorted(path.name for path in (seer.out / "segment-soft" / "pose-0").iterdir()) == ["000.png", "001.png"]


def test_reference_of_a_model_means_its_name(seer):
    assert run(seer, seer.render(), task="superres", model="seer:checkpoint").frames.name == "superres"


def test_default_task_is_the_loaded_models_first(work, tmp_path):
    path = tmp_path / "seer.py"
    source = SOURCE.replace(
        "    def encode",
        """    def __init__(self):
        super().__init__()
        import dataclasses
        self.spec = dataclasses.replace(self.spec, tasks=("superres",))

    def encode""",
    )
    path.write_text(source)
    work.model = f"{path}:Seer"
    work.encode()
    assert run(work, work.render()).frames.name == "superres"
