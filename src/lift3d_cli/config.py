"""The settings of each command, and the only home of their defaults. Imports nothing heavy, for the command line."""

from __future__ import annotations

from dataclasses import dataclass


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
        views: source photos per pose.
        planes: depth planes of Stage I.
        samples: samples per ray of Stage II.
        device: auto, cpu, cuda or cuda:N.
        dtype: of the rendered features: fp16, bf16 or fp32.
        memory: bound on temporaries, such as 2GiB.
        weights: file of the rendering network; empty for the one that ships with lift3d.
    """

    models: tuple[str, ...] = ()
    views: int = 8
    planes: int = 64
    samples: int = 8
    device: str = "auto"
    dtype: str = "fp16"
    memory: str = "2GiB"
    weights: str = ""


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
    """

    task: str = ""
    model: str = ""
    device: str = "auto"
    video: bool = True
    fps: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class EvalConfig:
    """Settings of `eval`.

    Args:
        every: every n-th photo, sorted by name, from the first, is left out and rendered.
        height: photos are resized to this height in pixels; 0 keeps their size.
        views: source photos per left-out photo.
        model: also compare lifted features of this 2D model; empty for none.
        device: auto, cpu, cuda or cuda:N.
        memory: bound on temporaries, such as 2GiB.
        weights: file of the rendering network; empty for the one that ships with lift3d.
        variant: full, or training-free: the renderer without the network.
    """

    every: int = 8
    height: int = 320
    views: int = 8
    model: str = ""
    device: str = "auto"
    memory: str = "2GiB"
    weights: str = ""
    variant: str = "full"
