"""Every built-in model goes from photos to results: encode, render, decode, with weights that ship or tiny ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import tiny_checkpoints as tiny
from PIL import Image
from plane_world import HEIGHT, WIDTH, look_at, read_image, rig, write_image

from lift3d_cli.cache.store import SceneCache
from lift3d_cli.config import MODEL_FOR_TEXT, DecodeConfig, EncodeConfig, RenderConfig
from lift3d_cli.errors import CacheError
from lift3d_cli.models.registry import BUILT_INS, find_model
from lift3d_cli.pipeline.decode import Decoded, decode
from lift3d_cli.pipeline.encode import encode
from lift3d_cli.pipeline.render import render
from lift3d_cli.pipeline.workspace import Workspace
from lift3d_cli.scene.load import load_scene
from lift3d_cli.scene.paths import CameraPath

# torch says that TorchScript will go some day; diffusers has not followed numpy yet.
pytestmark = pytest.mark.filterwarnings("ignore:.*(torch.jit|__array__).*:DeprecationWarning")

PHOTO = "images/03.png"
# One pose between the photos, and that of the photo.
NAMES = ("between", "photo")
POSES = (look_at((-0.2, 0.0, -4.0), (-0.2, 0.0, 0.0)).resized(48, 36), rig(8)[3].resized(48, 36))
STROKES, STYLE = Path("strokes.png"), Path("style.png")  # in the folder of `pictures`


@dataclass(frozen=True)
class Job:
    """A task.

    Args:
        task: its name.
        options: that it needs.
        classes: names that `segment` must give.
        alike: the least correlation of the frame at a photo's pose with the 2D model's result of the photo.
    """

    task: str
    options: dict[str, object] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    alike: float = 0.9


def _saved(name: str, query: str = "", save: Callable[[Path], str] | None = None) -> Callable[[Path], str]:
    """What makes the reference of a model whose checkpoint is saved to a folder."""
    save = save or getattr(tiny, "save_" + name.replace("-", "_"))
    return lambda folder: f"{name}:{save(folder)}{query}"


def _save_maps(folder: Path) -> str:
    """Five channels of noise for each photo, in cells of 8 pixels."""
    folder.mkdir()
    for i in range(8):
        np.save(folder / f"{i:02d}.npy", np.random.default_rng(i).random((5, HEIGHT // 8, WIDTH // 8)))
    return str(folder)


FEATURES = (Job("features"), Job("segment", {"clusters": 3}, ("cluster 1", "cluster 2", "cluster 3")))
BY_STROKES = Job("segment", {"strokes": STROKES, "view": PHOTO}, ("#0000ff", "#ff0000"))
BY_TEXT = Job("segment", {"text": ("chair", "the floor")}, ("chair", "the floor"))
BY_ONE_TEXT = Job("segment", {"text": ("chair",)}, ("chair", "other"))
BY_MASKS = Job("segment", {"text": ("chair", "the floor")}, ("chair", "the floor", "other"))
BY_PROMPTS = Job("segment", {"text": ("a cat", "b")}, ("other", "a cat", "b"))
# SAM's decoder sees all of a square, in which a view has the wall beside it and a photo nothing: with random weights,
# the masks need not be alike.
BY_POINT = Job("segment", {"point": (40.0, 30.0), "view": PHOTO}, ("other", "object"), alike=-1)

# What is tried: the model's name, or with another checkpoint `NAME:WHICH`; its reference, and all of its tasks.
MODELS: dict[str, tuple[Callable[[Path], str], tuple[Job, ...]]] = {
    "rgb": (lambda folder: "rgb", (Job("rgb"),)),
    "tiny-colorizer": (lambda folder: "tiny-colorizer", (Job("colorize"),)),
    "tiny-superres": (lambda folder: "tiny-superres", (Job("superres"),)),
    "style": (lambda folder: "style", (Job("stylize"),)),
    "style:johnson": (_saved("style", save=tiny.save_johnson), (Job("stylize"),)),
    "style:adain": (_saved("style", save=tiny.save_adain), (Job("stylize", {"style": STYLE}),)),
    "maps": (_saved("maps", "?stride=8", _save_maps), FEATURES),
    "torchscript": (_saved("torchscript"), (Job("decode"), *FEATURES)),
    "dino": (_saved("dino"), FEATURES),
    "dinov2": (_saved("dinov2"), (*FEATURES, BY_STROKES)),
    "dinov3": (_saved("dinov3"), FEATURES),
    "clip": (_saved("clip"), (BY_TEXT, BY_ONE_TEXT, *FEATURES)),
    "siglip2": (_saved("siglip2"), (BY_TEXT, BY_ONE_TEXT, *FEATURES)),
    "clipseg": (_saved("clipseg"), (BY_PROMPTS,)),
    "ovseg": (_saved("ovseg"), (BY_MASKS,)),
    "ovseg:mask2former": (_saved("ovseg", save=tiny.save_mask2former), (BY_MASKS,)),
    "slimsam": (_saved("slimsam"), (BY_POINT,)),
    "ddcolor": (_saved("ddcolor"), (Job("colorize"),)),
    "ddcolor-tiny": (_saved("ddcolor-tiny", save=tiny.save_ddcolor), (Job("colorize"),)),
    "swin2sr": (_saved("swin2sr"), (Job("superres"),)),
    "resshift": (_saved("resshift"), (Job("superres"),)),
    "instruct-pix2pix": (_saved("instruct-pix2pix", "?prompt=make+it+snow&steps=1"), (Job("edit"),)),
}


@pytest.fixture(scope="module", autouse=True)
def _untrained_network(use_untrained):
    with pytest.MonkeyPatch.context() as patch:
        use_untrained(patch)
        yield


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """A folder with strokes of two colours on a photo, and a picture with a style."""
    folder = tmp_path_factory.mktemp("pictures")
    strokes = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    strokes[10:60, 10:20], strokes[10:60, 60:80] = (255, 0, 0), (0, 0, 255)
    write_image(folder / STROKES, strokes)
    write_image(folder / STYLE, np.random.default_rng(0).integers(0, 255, (40, 33, 3), np.uint8))
    return folder


@dataclass
class Run:
    """A scene with a cache of its own, and where results go."""

    scene: Path
    out: Path
    pictures: Path

    @property
    def workspace(self) -> Workspace:
        """As a new process would see them."""
        return Workspace(load_scene(self.scene), SceneCache(self.out / "cache"))

    def encode(self, *refs: str) -> None:
        for done in encode(self.workspace, EncodeConfig(refs)):
            assert (done.num_encoded, done.num_reused) == (8, 0)

    def render(self, output: Path | None = None, **settings: object) -> Path:
        config = RenderConfig(views=3, planes=16, samples=4, **settings)
        return render(self.workspace, CameraPath(POSES, NAMES, 24.0), "path", config, output)

    def decode(self, rendered: Path, job: Job, **settings: object) -> Decoded:
        options = {k: self.pictures / v if isinstance(v, Path) else v for k, v in job.options.items()}
        config = DecodeConfig(task=job.task, video=False, soft_masks=job.task == "segment", **options, **settings)
        output = self.out / f"results-{len(list(self.out.glob('results-*')))}"
        return decode(rendered, output, config, open_workspace=lambda scene: self.workspace)


@pytest.fixture
def run(wall_scene, pictures, tmp_path) -> Run:
    return Run(wall_scene, tmp_path, pictures)


def test_every_built_in_model_and_each_of_its_tasks_is_tried():
    assert {key.split(":")[0] for key in MODELS} == set(BUILT_INS)
    for key, (_, jobs) in MODELS.items():
        name = key.split(":")[0]
        assert {job.task for job in jobs} == set(find_model(name).spec().tasks)


@pytest.mark.parametrize("key", MODELS)
def test_lifted_result_at_the_pose_of_a_photo_is_like_the_2d_models_of_the_photo(key, run):
    make, jobs = MODELS[key]
    if find_model(key.split(":")[0]).spec().extra:
        pytest.importorskip("transformers")
        pytest.importorskip("diffusers")
    ref = make(run.out / "checkpoint")
    run.encode(ref)
    rendered = run.render()
    scale = find_model(ref).load().spec.scale
    for job in jobs:
        lifted = results(run.decode(rendered, job).frames, job)
        alone = results(run.decode(rendered, job, source_views=(PHOTO,)).frames, job)
        assert sorted(lifted) == sorted(NAMES)
        assert sorted(alone) == ["03"]
        assert {picture.shape[1:] for picture in lifted.values()} == {(36 * scale, 48 * scale)}
        assert alone["03"].shape[1:] == (HEIGHT * scale, WIDTH * scale)
        assert all(picture.std((1, 2)).max() > 1 for picture in lifted.values())
        assert correlation(lifted["photo"], alone["03"]) > job.alike


def results(folder: Path, job: Job) -> dict[str, np.ndarray]:
    """By the view's name, each picture [3, H, W], or how much each pixel is of each class [K, H, W]: 0 to 255."""
    pictures = {path.stem: read_image(path).transpose(2, 0, 1) for path in folder.iterdir()}
    if job.task != "segment":
        return pictures
    legend = json.loads(folder.with_name(f"{folder.name}-legend.json").read_text())
    assert tuple(row["name"] for row in legend) == job.classes
    soft = {}
    for name, picture in pictures.items():
        paths = sorted((folder.with_name(f"{folder.name}-soft") / name).iterdir())
        soft[name] = np.stack([read_image(path)[..., 0] for path in paths])
        assert soft[name].shape == (len(job.classes), *picture.shape[1:])
        assert read_image(folder.with_name(f"{folder.name}-overlay") / f"{name}.png").shape == (*picture.shape[1:], 3)
        with Image.open(folder / f"{name}.png") as labels:
            chosen = np.take_along_axis(soft[name], np.array(labels)[None], 0)[0]
        assert (chosen == soft[name].max(0)).all()
    return soft


def correlation(small: np.ndarray, large: np.ndarray) -> float:
    """Of pictures [K, H, W] and [K, 2 * H, 2 * W], each channel without its mean."""
    k, height, width = small.shape
    means = large.reshape(k, height, 2, width, 2).mean((2, 4))
    return float(np.corrcoef(*((x - x.mean((1, 2), keepdims=True)).ravel() for x in (small, means)))[0, 1])


def test_models_of_one_scene_are_rendered_by_one_call_and_each_decoded_as_if_it_were_alone(run):
    pytest.importorskip("transformers")
    jobs = {"tiny-colorizer": Job("colorize"), "dinov2": Job("features"), "maps": Job("features")}
    run.encode(*(MODELS[name][0](run.out / name) for name in jobs))
    together = run.render()
    assert len(list(together.glob("feats/*"))) == 3
    for name, job in jobs.items():
        alone = run.render(run.out / f"{name}-alone", models=(name,))
        assert len(list(alone.glob("feats/*"))) == 1
        both = [results(run.decode(rendered, job, model=name).frames, job) for rendered in (together, alone)]
        assert both[0].keys() == both[1].keys() == set(NAMES)
        for view in NAMES:
            assert both[0][view].std() > 3
            assert np.abs(both[0][view].astype(int) - both[1][view]).max() <= 1


def test_words_have_a_default_that_is_free_for_commercial_use(run):
    pytest.importorskip("transformers")
    assert find_model(MODEL_FOR_TEXT).spec().commercial
    run.encode(*(MODELS[name][0](run.out / name) for name in ("clip", MODEL_FOR_TEXT, "ovseg")))
    rendered = run.render()
    assert results(run.decode(rendered, BY_PROMPTS).frames, BY_PROMPTS)  # its names are those of clipseg
    with pytest.raises(CacheError, match=r"which of its features.*--model ovseg"):
        run.decode(rendered, Job("segment"))
    assert results(run.decode(rendered, BY_MASKS, model="ovseg").frames, BY_MASKS)
