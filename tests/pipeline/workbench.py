"""One scene and one model, and encode, render and decode on them with few planes and small frames."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from plane_world import look_at

from lift3d_cli.cache.renders import Render
from lift3d_cli.cache.store import SceneCache
from lift3d_cli.config import DecodeConfig, EncodeConfig, RenderConfig
from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.machine.progress import no_progress
from lift3d_cli.pipeline.decode import Decoded, decode
from lift3d_cli.pipeline.encode import Encoded, encode
from lift3d_cli.pipeline.lift import PHOTOS_PER_VIEW
from lift3d_cli.pipeline.render import render
from lift3d_cli.pipeline.surfaces import find_surfaces
from lift3d_cli.pipeline.workspace import Workspace
from lift3d_cli.scene.load import load_scene
from lift3d_cli.scene.paths import CameraPath

POSES = tuple(look_at((x, 0.0, -4.0), (x, 0.0, 0.0), width=48, height=36, focal=45.0) for x in (-0.2, 0.0, 0.2))


class Interrupted(BaseException):
    """Stands for Ctrl-C: no `except Exception` may stop it."""


@dataclass
class Progress:
    """Counts what is done after the choice of photos, and interrupts before number `stop`."""

    stop: int | None = None
    done: list = field(default_factory=list)

    def __call__(self, items, description, total):
        for item in items:
            if description == "choose photos":
                yield item
                continue
            if len(self.done) == self.stop:
                raise Interrupted
            yield item
            self.done.append(item)


@dataclass
class Work:
    """A scene, a model's reference, and shortcuts."""

    scene: Path
    model: str
    out: Path

    @property
    def workspace(self) -> Workspace:
        """As a new process would see them."""
        return Workspace(load_scene(self.scene), SceneCache(self.scene / ".lift3d"), keep=8 * PHOTOS_PER_VIEW)

    def encode(self, model: str | None = None, progress=no_progress, **settings) -> Encoded:
        done = encode(self.workspace, EncodeConfig((model or self.model,), **settings), progress)[0]
        find_surfaces(self.workspace, RenderConfig())  # as the command does
        return done

    def render(
        self, cameras: tuple[Camera, ...] = POSES, output=None, progress=no_progress, fps=24.0, names=None, **settings
    ) -> Render:
        path = CameraPath(cameras, names or tuple(f"pose-{i}" for i in range(len(cameras))), fps)
        config = RenderConfig(**{"views": 4, "planes": 16, "samples": 4, **settings})
        return Render.open(render(self.workspace, path, "test", config, output, progress))

    def decode(self, render: Render, **settings) -> Decoded:
        return decode(render.root, self.out, DecodeConfig(**settings))


def edit(path: Path, old: str, new: str) -> None:
    """Replace text in a file; it must be there."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def stamps(folder: Path) -> dict[str, int]:
    """When each file of a folder was written."""
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in sorted(folder.rglob("*")) if p.is_file()}
