"""The settings of each command, and the only home of their defaults. Imports nothing heavy, for the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class EncodeConfig:
    """Settings of `encode`.

    Args:
        models: names or references of 2D models.
        device: auto, cpu, cuda or cuda:N.
        dtype: of the stored features: fp16, bf16 or fp32.
        max_size: longest side, in pixels, that photos are shrunk to first; None takes each model's own.
        force: encode again what is there.
        seed: of models that draw random numbers; every photo starts from it.
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
        models: names of encoded models to lift; empty for all that the cache has.
        views: source photos per pose, at most.
        planes: depth planes of Stage I, at most; as many as the photos' disparity needs are used.
        samples: samples per ray of Stage II.
        device: auto, cpu, cuda or cuda:N.
        dtype: of the rendered features: fp16, bf16 or fp32.
        memory: bound on what a pose takes, such as 2GiB, or auto for half of what is free.
        weights: of the rendering network, a file or a Hugging Face repository; empty for those that ship with lift3d.
        precision: of the rendering network: bf16, fp32, or auto for bf16 where the processor has it.
        tuned: take the weights that `tune` made of these for the scene.
    """

    models: tuple[str, ...] = ()
    views: int = 8
    planes: int = 128
    samples: int = 8
    device: str = "auto"
    dtype: str = "fp16"
    memory: str = "auto"
    weights: str = ""
    precision: str = "auto"
    tuned: bool = False


VARIANTS = ("full", "single-stage", "no-correction", "feature-prediction", "training-free")
"""Renderers that `eval --variant` compares, see `make_renderer`."""
PARTS = ("renderer", "corrector", "single-stage", "feature-prediction")
"""What `train` can train; the last two are for ablations."""
RAW_FORMATS = ("npy", "safetensors")
"""Files that `decode --raw` writes."""


@dataclass(frozen=True)
class DecodeConfig:
    """Settings of `decode`.

    Args:
        task: what to decode to; empty for the model's first.
        model: name of the model; empty if only one of the render's can do the task.
        device: auto, cpu, cuda or cuda:N.
        video: write an MP4 beside the frames.
        fps: frames per second of the video; 0 takes the path's.
        seed: of models that draw random numbers; every frame starts from it.
        text: prompts of classes, for `segment`.
        strokes: picture with strokes on the photo `view`, a colour for each class, for `segment`; or None.
        point: (u, v) in pixels of the photo `view`, on what to segment; or None.
        view: name of the photo that strokes or a point are on.
        clusters: number of classes to find, for `segment`; 0 for none.
        style: picture whose style to take, for `stylize`; or None.
        soft_masks: also write how much each pixel is of each class.
        source_views: names of photos to decode by their own features, instead of the frames.
        raw: write the features as they are, in files of one of the `RAW_FORMATS`, instead of decoding; "" not.
    """

    task: str = ""
    model: str = ""
    device: str = "auto"
    video: bool = True
    fps: float = 0.0
    seed: int = 0
    text: tuple[str, ...] = ()
    strokes: Path | None = None
    point: tuple[float, float] | None = None
    view: str = ""
    clusters: int = 0
    style: Path | None = None
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
        model: also compare lifted features of this 2D model; empty for none.
        device: auto, cpu, cuda or cuda:N.
        memory: bound on what a pose takes, such as 2GiB, or auto for half of what is free.
        weights: of the rendering network, a file or a Hugging Face repository; empty for those that ship with lift3d.
        variant: one of the `VARIANTS`: full, or one with a part left out.
        lpips: weights of LPIPS, a file or a Hugging Face repository; empty for no LPIPS.
        task: what the model's features are decoded to; empty for its first task.
        text: prompts of the classes to segment.
        strokes: picture with strokes on the photo `view`, a colour for each class; or None.
        view: name of the photo that strokes are on.
        clusters: number of classes to segment where there are neither prompts nor strokes.
        masks: folder of masks of the thing to segment, by the names of photos; or None.
        style: picture whose style to take; or None.
        edit_text: what an edited picture showed before, and what it shows now; or None.
        clip: the model that compares the edit with these.
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
        models: 2D models whose features are lifted, best such that nothing was trained on.
        every: every n-th photo, sorted by name, from the first, is left out and rendered.
        height: photos are resized to this height in pixels; 0 keeps their size.
        views: source photos per left-out photo, at most.
        device: auto, cpu, cuda or cuda:N.
        memory: bound on what a pose takes, such as 2GiB, or auto for half of what is free.
        weights: of the rendering network, a file or a Hugging Face repository; empty for those that ship with lift3d.
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
        frames: of the path to show, at most; evenly spread.
        device: auto, cpu, cuda or cuda:N.
        memory: bound on what a pose takes, such as 2GiB, or auto for half of what is free.
        weights: of the rendering network, that the render was made with; empty for those that ship with lift3d.
    """

    metrics: tuple[Path, ...] = ()
    compare_2d: bool = True
    frames: int = 60
    device: str = "auto"
    memory: str = "auto"
    weights: str = ""


@dataclass(frozen=True)
class TrainConfig:
    """Settings of `train`.

    Args:
        part: what learns, one of the `PARTS`.
        scenes: to learn from.
        held_out: scenes to score on, which nothing is learned from.
        models: 2D models whose features the corrector learns from.
        textures: folder of photos for the procedural scenes, or None.
        weights: to begin with, a file or a Hugging Face repository; empty for those that ship with lift3d, "none" for
            an untrained network.
        run: folder of the checkpoint and the learning curves.
        output: file of the finished weights; None for `weights.safetensors` in `run`.
        steps: of the whole training, where it does not go by `minutes`.
        minutes: of the whole training, however many steps that is; 0 to go by steps.
        stop_after: minutes after which this call ends, before the training does; 0 for never. It can be resumed.
        batch: examples a step; on a CPU they are learned from side by side.
        learning_rate: at its highest.
        height: of the renderer's training photos in pixels, at most.
        procedural: part of the renderer's examples that come from procedural scenes.
        examples: of the corrector, per scene and size of its photos.
        evaluate_every: steps between scores.
        device: auto, cpu, cuda or cuda:N.
        seed: of everything random.
        resume: go on from the run's checkpoint.
        workers: processes that make procedural scenes while a GPU trains.
        compile: let torch fuse what Stage II computes, which takes minutes at first.
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
        minutes: of the whole tuning.
        weights: to begin with, a file or a Hugging Face repository; empty for those that ship with lift3d.
        height: of the photos that it learns from in pixels, at most.
        batch: examples a step; 0 for as many as there are cores, 2 to 8, and for 12 on a GPU.
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
