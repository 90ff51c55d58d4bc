"""The data of a report: a render, its scene and its decoded results; no network runs here."""

from __future__ import annotations

import json
import platform
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import lift3d_cli
from lift3d_cli.cache.format import EncoderRecord
from lift3d_cli.cache.renders import FeatureRender, Render
from lift3d_cli.config import RenderConfig
from lift3d_cli.errors import CacheError, Lift3dError, SceneError
from lift3d_cli.machine.png import read_png
from lift3d_cli.machine.provenance import commit
from lift3d_cli.models.registry import find_recorded_model
from lift3d_cli.pipeline.encoders import encode_options
from lift3d_cli.pipeline.result_folder import recorded_run
from lift3d_cli.pipeline.workspace import Workspace

_MAX_JSON_BYTES = 64 * 2**20
# An absolute folder, up to the name in it.
_FOLDERS = re.compile(r"(?<![\w.~-])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\'\":,]+[/\\])+")


@dataclass(frozen=True)
class DecodedTask:
    """The decoded frames of one task.

    Args:
        name: name of the task.
        folder: folder of the pictures to show; segmentations are shown as overlays.
        legend: (name, CSS colour) of each class of a segmentation.
        models: the model that was used; or all of the render's that can do the task, if it is not recorded.
    """

    name: str
    folder: Path
    legend: Sequence[tuple[str, str]]
    models: Sequence[str]


@dataclass(frozen=True)
class StoredFrame:
    """A stored frame of the render.

    Args:
        index: index in the path.
        name: name of the pose.
        image: [H, W, 3] uint8.
        depth: [H, W] z-depth.
        coverage: [H, W] in [0, 1].
        confidence: [H, W] in [0, 1], or None in renders of earlier versions.
        sources: indices of the photos that it was rendered from.
    """

    index: int
    name: str
    image: np.ndarray
    depth: Tensor
    coverage: Tensor
    confidence: Tensor | None
    sources: Sequence[int]


class ReportedRender:
    """A finished render with its scene and decoded results.

    Args:
        folder: folder of the render.
        workspace: the scene, with the cache.
        decoded: folder of the results of `decode`.
        max_frames: the most frames to show, evenly spread over the path.

    Raises:
        CacheError: if the render is missing, damaged or unfinished.
    """

    def __init__(self, folder: Path, workspace: Workspace, decoded: Path, max_frames: int) -> None:
        self.render = Render.open(folder)
        self.workspace = workspace
        self.decoded = decoded
        if missing := self.render.missing():
            raise CacheError(
                f"{folder}: {len(missing)} of {self.render.num_frames} frames are not rendered yet. "
                "hint: run lift3d render again"
            )
        self.cameras = self.render.cameras
        self.step = max(1, -(-len(self.cameras) // max_frames))
        self.shown = range(0, len(self.cameras), self.step)

    @property
    def fps(self) -> float:
        """Frames per second of a video of the shown frames, as long as one of all frames."""
        return self.render.fps / self.step

    @cached_property
    def lifted(self) -> dict[str, FeatureRender]:
        """The last rendered features, by model."""
        return {r.model: r for r in self.render.feature_renders() if not r.missing()}

    @cached_property
    def encoders(self) -> dict[str, EncoderRecord]:
        """The encoders of the photos, by model; without those that are no longer in the cache."""
        by_key = {encoder.key: encoder for encoder in self.workspace.cache.encoders()}
        keys = {name: lifted.encoder for name, lifted in self.lifted.items()}
        return {name: by_key[key] for name, key in keys.items() if key in by_key}

    @cached_property
    def frames(self) -> list[StoredFrame]:
        """The frames to show."""
        return [self._frame(index) for index in self.shown]

    def _frame(self, index: int) -> StoredFrame:
        maps, image = self.render.read_maps(index), read_png(self.render.color_path(index))
        confidence = None if maps.confidence is None else maps.confidence.float() / 255
        name, coverage = self.render.names[index], maps.coverage.float() / 255
        return StoredFrame(index, name, image, maps.depth, coverage, confidence, maps.sources)

    @cached_property
    def tasks(self) -> list[DecodedTask]:
        """The tasks that all shown frames are decoded to."""
        able = {model: _tasks(lifted.ref, self.render.root, self.render.scene) for model, lifted in self.lifted.items()}
        found = [self._task(task, able) for task in sorted({task for tasks in able.values() for task in tasks})]
        return [task for task in found if task is not None]

    def _task(self, task: str, able: Mapping[str, Sequence[str]]) -> DecodedTask | None:
        """Find the pictures of a task that were decoded from this render."""
        names = [self.render.names[index] for index in self.shown]
        models = [model for model, tasks in able.items() if task in tasks]
        for name in (task, *(f"{task}-{model}" for model in models)):
            run = recorded_run(self.decoded / name)
            if run is not None and run.render != self.render.key:
                continue
            legend = self.decoded / f"{name}-legend.json"
            folder = self.decoded / (f"{name}-overlay" if legend.is_file() else name)
            if all((folder / f"{frame}.png").is_file() for frame in names):
                classes = _classes(legend) if legend.is_file() else []
                return DecodedTask(task, folder, classes, models if run is None else [run.model])
        return None

    def decoded_frames(self, task: DecodedTask) -> list[np.ndarray]:
        """Read the task's pictures [H, W, 3] uint8 of the shown frames."""
        return [
            read_png(task.folder / f"{self.render.names[index]}.png", "lift3d decode again") for index in self.shown
        ]

    def commands(self) -> list[str]:
        """Return the command lines that give these results, as far as they are recorded."""
        scene, render = short(self.workspace.scene.root), short(self.render.root)
        lines = [for_others(f"lift3d encode {scene} {encode_options(e)}") for e in self.encoders.values()]
        made = {key: getattr(self.render, key) for key in ("views", "samples", "planes", "precision")}
        made["dtype"] = next((lifted.dtype for lifted in self.lifted.values()), None)
        options = [f" --model {shlex.quote(name)}" for name in self.encoders]
        options += [f" --{key} {x}" for key, x in made.items() if x not in (None, getattr(RenderConfig, key))]
        lines.append(f"lift3d render {scene} --poses path.json{''.join(options)}")
        is_default = self.decoded.resolve() == default_results(self.render.root).resolve()
        output = "" if is_default else f" --output {short(self.decoded)}"
        for task in self.tasks:
            model = f" --model {task.models[0]}" if len(task.models) == 1 else ""
            lines.append(f"lift3d decode {render} --task {task.name}{model}{output}")
        return lines

    def versions(self) -> dict[str, str]:
        """Return the versions of what made the results and this report."""
        made = {"rendered by": f"lift3d {self.render.version}", "render": self.render.key[:16]}
        weights = self.render.weights
        made["rendering network"] = f"sha256 {weights[:16]}" if weights else "none, training-free"
        for name, lifted in self.lifted.items():
            facts = lifted.fingerprint
            digest = f", weights sha256 {facts['weights'][:16]}" if facts["weights"] else ""
            made[f"model {name}"] = f"version {facts['version']}{digest}"
        own = f"lift3d {lift3d_cli.__version__} {commit()}".rstrip()
        made["this report"] = f"{own}, torch {torch.__version__}, Python {platform.python_version()}"
        return made


def default_results(render: Path) -> Path:
    """Return the folder that `decode` writes to by default."""
    return Path("lift3d-out") / render.name


def short(path: Path) -> str:
    """Name a path for others: relative if it is inside the current folder, else by its last part."""
    absolute = path.resolve()
    here = Path.cwd()
    return shlex.quote(absolute.relative_to(here).as_posix() if absolute.is_relative_to(here) else absolute.name)


def for_others(text: str) -> str:
    """Say a line of lift3d to people who did not run it: without its hint, and without folders of this machine."""
    return _FOLDERS.sub("", text.split(" hint:")[0]).rstrip(".")


def _tasks(ref: str, *folders: Path) -> tuple[str, ...]:
    """List a model's tasks; none if it is missing."""
    try:
        found = find_recorded_model(ref, *folders)
        # A model's tasks may depend on its checkpoint.
        return (found.load().spec if found.settings else found.spec()).tasks
    except Lift3dError:
        return ()


def _classes(legend: Path) -> list[tuple[str, str]]:
    try:
        return [(str(row["name"]), "rgb({} {} {})".format(*map(int, row["color"]))) for row in read_json(legend)]
    except (KeyError, TypeError, ValueError, IndexError, SceneError) as e:
        raise CacheError(f"{legend}: is no legend of a segmentation. hint: run lift3d decode again") from e


def read_json(path: Path) -> object:
    """Read a JSON document that the user named.

    Raises:
        SceneError: if it cannot be read.
    """
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise ValueError("too large")
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise SceneError(f"{path}: is no JSON ({e}). hint: lift3d eval SCENE --json > metrics.json") from e
