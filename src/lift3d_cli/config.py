"""Settings of each command, and the only place of their defaults. Imports nothing slow, for the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class EncodeConfig:
    """Settings of `encode`.

    Args:
        models: names or references of 2D models.
        device: auto, cpu, cuda or cuda:N.
        dtype: storage type of the features: fp16, bf16 or fp32.
        max_size: longest side, in pixels, that photos are shrunk to first; None for each model's own.
        force: encode again even what exists.
        seed: seed of models that draw random numbers; every photo starts from it.
    """

    models: tuple[str, ...] = ("tiny-colorizer",)
    device: str = "auto"
    dtype: str = "fp16"
    max_size: int | None = None
    force: bool = False
    seed: int = 0


@dataclass(frozen=True)
class RenderConfig:
    """Settings of `render`.

    Args:
        models: names or references of encoded models to lift; empty for all, "none" for colour only.
        views: source photos per pose, at most.
        planes: depth planes of Stage I, at most; the photos' disparity decides how many are used.
        samples: samples per ray of Stage II.
        device: auto, cpu, cuda or cuda:N.
        dtype: storage type of the rendered features: fp16, bf16 or fp32.
        memory: bound on the memory of a pose, such as 2GiB, or auto for half of what is free.
        weights: the renderer's weights, a file or a Hugging Face repository; empty for those that ship with lift3d.
        precision: the networks' precision: bf16, fp32, or auto for bf16 where the processor has it.
        tuned: take the weights that `tune` made of these for the scene.
    """

    models: tuple[str, ...] = ()
    views: int = 8
    planes: int = 128
    samples: int = 6
    device: str = "auto"
    dtype: str = "fp16"
    memory: str = "auto"
    weights: str = ""
    precision: str = "auto"
    tuned: bool = False


VARIANTS = ("full", "single-stage", "no-correction", "feature-prediction", "training-free")
"""Renderers that `eval --variant` compares, see `make_renderer`."""
PARTS = ("renderer", "propagation", "corrector", "single-stage", "feature-prediction")
"""Parts that `train` can train; the last two are for ablations."""
RAW_FORMATS = ("npy", "npz", "safetensors", "exr")
"""Formats of `decode --raw`."""
NO_MODEL = "none"  # as the only name in `RenderConfig.models`: colour only
FEATURES = "features"  # task that shows features by their principal components, which those of any model have
MODEL_FOR_TEXT = "clipseg"
"""Of several models in a render that can do `segment`, the one for words; its weights are free for commercial use."""
VIEW_TASKS = ("color", "depth", "normals")
"""Tasks of `decode` that a render answers by itself, frame by frame."""
POINTS = "points"
"""The task of `decode` that makes a point cloud of all frames."""
FRAME_FORMATS = ("png", "png16", "exr", "exr-float")
"""Formats of decoded frames: 8 and 16 bits, half and single precision."""
VIDEO_CODECS = ("h264", "h265", "prores", "gif", "webp")
"""Codecs of the video of decoded frames."""
VIDEO_QUALITY = 8  # of 10: visually close to lossless
DEPTH_SCALE = 1000.0  # millimetres, where the scene is in metres


@dataclass(frozen=True)
class DecodeConfig:
    """Settings of `decode`.

    Args:
        task: task to decode to; empty for the model's first.
        model: name of the model; empty for the one of the render that can do the task, of several the one that is free
            for commercial use, or `MODEL_FOR_TEXT` for `text`.
        device: auto, cpu, cuda or cuda:N.
        format: one of the `FRAME_FORMATS`.
        depth_scale: of task `depth` as `png16`: what one unit of the scene is stored as; 0 for `DEPTH_SCALE`.
        video: write a video beside the frames; None for one wherever frames can make it.
        codec: one of the `VIDEO_CODECS`; "" for the first.
        quality: of the video, 1 to 10; 0 for `VIDEO_QUALITY`.
        fps: frames per second of the video; 0 takes the path's.
        move_aside: rename what another run left in the way, instead of refusing.
        seed: seed of models that draw random numbers; every frame starts from it.
        text: prompts of classes, for `segment`.
        strokes: picture with strokes on the photo `view`, a colour for each class, for `segment`; or None.
        point: (u, v) in pixels of the photo `view`, on the object to segment; or None.
        view: name of the photo that strokes or point refer to.
        clusters: number of classes to find, for `segment`; 0 for none.
        style: picture to take the style from, for `stylize`; or None.
        refine: move the edges of masks to those of the rendered colour.
        soft_masks: also write each pixel's score for each class.
        source_views: names of photos to decode from their own features, instead of the frames.
        raw: write the rendered features in one of the `RAW_FORMATS`, instead of decoding; "" to decode.
    """

    task: str = ""
    model: str = ""
    device: str = "auto"
    format: str = FRAME_FORMATS[0]
    depth_scale: float = 0.0
    video: bool | None = None
    codec: str = ""
    quality: float = 0.0
    fps: float = 0.0
    move_aside: bool = False
    seed: int = 0
    text: tuple[str, ...] = ()
    strokes: Path | None = None
    point: tuple[float, float] | None = None
    view: str = ""
    clusters: int = 0
    style: Path | None = None
    refine: bool = False
    soft_masks: bool = False
    source_views: tuple[str, ...] = ()
    raw: str = ""


@dataclass(frozen=True)
class EvalConfig:
    """Settings of `eval`.

    Args:
        every: every n-th photo, sorted by name, from the first, is left out and rendered.
        height: photos are resized to this height in pixels; 0 keeps their size.
        views: source photos per left-out photo, at most.
        model: 2D model whose lifted features are compared too; empty for none.
        device: auto, cpu, cuda or cuda:N.
        memory: bound on the memory of a pose, such as 2GiB, or auto for half of what is free.
        weights: the renderer's weights, a file or a Hugging Face repository; empty for those that ship with lift3d.
        variant: one of the `VARIANTS`: full, or one with a part left out.
        lpips: weights of LPIPS, a file or a Hugging Face repository; empty for no LPIPS.
        task: task that the model's features are decoded to; empty for its first.
        text: prompts of the classes to segment.
        strokes: picture with strokes on the photo `view`, a colour for each class; or None.
        view: name of the photo that the strokes refer to.
        clusters: number of classes to segment without prompts or strokes.
        masks: folder of masks of the object to segment, by the names of photos; or None.
        style: picture to take the style from; or None.
        edit_text: captions of an edited picture before and after the edit; or None.
        clip: CLIP model that compares the edit with these captions.
        tuned: minutes to tune the network to the photos that are not left out first; 0 not to.
    """

    every: int = 8
    height: int = 320
    views: int = 8
    model: str = ""
    device: str = "auto"
    memory: str = "auto"
    weights: str = ""
    variant: str = "full"
    lpips: str = ""
    task: str = ""
    text: tuple[str, ...] = ()
    strokes: Path | None = None
    view: str = ""
    clusters: int = 4
    masks: Path | None = None
    style: Path | None = None
    edit_text: tuple[str, str] | None = None
    clip: str = "clip"
    tuned: float = 0.0


@dataclass(frozen=True)
class AblationConfig:
    """Settings of `ablate`.

    Args:
        models: 2D models whose features are lifted, preferably not used in training.
        every: every n-th photo, sorted by name, from the first, is left out and rendered.
        height: photos are resized to this height in pixels; 0 keeps their size.
        views: source photos per left-out photo, at most.
        device: auto, cpu, cuda or cuda:N.
        memory: bound on the memory of a pose, such as 2GiB, or auto for half of what is free.
        weights: the renderer's weights, a file or a Hugging Face repository; empty for those that ship with lift3d.
    """

    models: tuple[str, ...] = ("tiny-colorizer",)
    every: int = 8
    height: int = 320
    views: int = 8
    device: str = "auto"
    memory: str = "auto"
    weights: str = ""


@dataclass(frozen=True)
class ReportConfig:
    """Settings of `report`.

    Args:
        metrics: files with results of `eval --json`.
        compare_2d: also run the 2D model on each shown frame.
        frames: the most frames of the path to show; evenly spread.
        device: auto, cpu, cuda or cuda:N.
        memory: bound on the memory of a pose, such as 2GiB, or auto for half of what is free.
        weights: the weights that the render was made with; empty for those that ship with lift3d.
        public: leave out names of photos, commands and versions.
    """

    metrics: tuple[Path, ...] = ()
    compare_2d: bool = True
    frames: int = 60
    device: str = "auto"
    memory: str = "auto"
    weights: str = ""
    public: bool = False


@dataclass(frozen=True)
class TrainConfig:
    """Settings of `train`.

    Args:
        part: part to train, one of the `PARTS`.
        scenes: scenes to train on.
        held_out: scenes to score on, which are never trained on.
        models: 2D models whose features the corrector is trained on.
        textures: folder of photos for the procedural scenes, or None.
        weights: initial weights, a file or a Hugging Face repository; empty for those that ship with lift3d, "none" for
            an untrained network.
        run: folder of the checkpoint and the learning curves.
        output: file of the finished weights; None for `weights.safetensors` in `run`.
        steps: steps of the whole training, unless `minutes` are given.
        minutes: minutes of the whole training, however many steps that is; 0 to use steps.
        stop_after: minutes after which this call ends, before the training does; 0 for never. It can be resumed.
        batch: examples per step; on a CPU they run in parallel.
        learning_rate: its maximum.
        height: maximum height of the training photos of renderer and propagation, in pixels.
        procedural: share of their examples that come from procedural scenes.
        examples: the corrector's examples, per scene and size of its photos.
        evaluate_every: steps between scores.
        device: auto, cpu, cuda or cuda:N.
        seed: seed of all random numbers.
        resume: continue from the run's checkpoint.
        workers: processes that make procedural scenes while a GPU trains.
        compile: let torch fuse Stage II's operations, which takes minutes at first.
    """

    part: str = "renderer"
    scenes: tuple[Path, ...] = ()
    held_out: tuple[Path, ...] = ()
    models: tuple[str, ...] = ()
    textures: Path | None = None
    weights: str = ""
    run: Path = Path("runs/train")
    output: Path | None = None
    steps: int = 2000
    minutes: float = 0.0
    stop_after: float = 0.0
    batch: int = 1
    learning_rate: float = 1e-3
    height: int = 240
    procedural: float = 0.4
    examples: int = 4
    evaluate_every: int = 250
    device: str = "auto"
    seed: int = 0
    resume: bool = False
    workers: int = 0
    compile: bool = False


@dataclass(frozen=True)
class TuneConfig:
    """Settings of `tune`.

    Args:
        minutes: duration of the whole tuning.
        weights: initial weights, a file or a Hugging Face repository; empty for those that ship with lift3d.
        height: greatest height in pixels of the photos that it learns from.
        batch: examples a step; 0 for one per core, 2 to 8, and 12 on a GPU.
        learning_rate: at its highest; Stage II's is five times as high.
        device: auto, cpu, cuda or cuda:N.
        seed: of everything random.
    """

    minutes: float = 5.0
    weights: str = ""
    height: int = 480
    batch: int = 0
    learning_rate: float = 1.5e-4
    device: str = "auto"
    seed: int = 0
