"""One render: the colours of a camera path, and in its folder the feature renders, one per lifted model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lift3d_cli.cache.format import EncoderRecord, slug
from lift3d_cli.cache.frames import MANIFEST, FrameFolder, by_last_use, render_key
from lift3d_cli.errors import CacheError
from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.machine.atomic import Later, at_once
from lift3d_cli.machine.png import is_whole_png

if TYPE_CHECKING:
    from torch import Tensor


def renders_dir(cache_root: Path) -> Path:
    """Return the folder of all renders in a scene's cache."""
    return cache_root / "renders"


def render_dir(cache_root: Path, name: str, content: Mapping[str, object]) -> Path:
    """Return the folder of a render in a scene's cache; `name` is for people."""
    return renders_dir(cache_root) / f"{slug(name, 'render')}-{render_key(content)[:8]}"


def is_render(folder: Path) -> bool:
    """Return True if a folder is that of a render, which may be damaged."""
    return os.path.exists(folder / MANIFEST)


def all_renders(cache_root: Path) -> list[Path]:
    """List the folders of the renders in a scene's cache, the last used one at the end."""
    return [path.parent for path in by_last_use(renders_dir(cache_root).glob(f"*/{MANIFEST}"))]


def is_complete(folder: Path) -> bool:
    """Return True if a folder is that of a render, and no frame of its colours is missing."""
    try:
        return not Render.open(folder).missing()
    except CacheError:
        return False


def cache_of(render: Path) -> Path | None:
    """Find the scene's cache, with features in it, that contains a render's folder; None if it is elsewhere."""
    root = render.parent.parent
    return root if render.parent == renders_dir(root) and (root / "feats").is_dir() else None


def render_content(
    version: str,
    cameras: Sequence[Camera],
    sources: Sequence[tuple[str, Camera]],
    choices: Sequence[tuple[tuple[float, float], Sequence[int]]],
    views: int,
    renderer: Mapping[str, object],
    surfaces: Sequence[str] = (),
) -> dict[str, object]:
    """Collect everything that the rendered colours depend on, as JSON values.

    Args:
        version: version of lift3d.
        cameras: cameras of the path.
        sources: key and camera of each photo that is used.
        choices: for each pose, (near, far) z-depth and the indices of its `sources`. They depend on all photos, through
                the surface points.
        views: source photos per pose, at most.
        renderer: settings of the renderer.
        surfaces: key of each used photo's own surface, if the renderer looks at them.
    """
    return {
        "version": version,
        "frames": len(cameras),
        "dtype": "fp32",  # for the depth
        "cameras": [{"K": c.K.tolist(), "w2c": c.w2c.tolist(), "width": c.width, "height": c.height} for c in cameras],
        "sources": [[key, camera.w2c.tolist()] for key, camera in sources],
        "choices": [[*depth_range, list(chosen)] for depth_range, chosen in choices],
        "views": views,
        "renderer": renderer,
        "maps": ["confidence", "coverage", "depth"],
        "surfaces": list(surfaces),
    }


@dataclass(frozen=True)
class FrameMaps:
    """What is stored of a frame besides its colours.

    Args:
        depth: [H, W] z-depth.
        coverage: [H, W] uint8, 255 is 1.
        confidence: [H, W] uint8, 255 is 1; None in renders of earlier versions.
        sources: indices of the photos that the frame was rendered from.
    """

    depth: Tensor
    coverage: Tensor
    confidence: Tensor | None
    sources: Sequence[int]


class Render(FrameFolder):
    """The colours and maps of a camera path, and its lifted features."""

    @classmethod
    def begin(cls, root: Path, content: Mapping[str, Any], scene: Path, fps: float, names: Sequence[str]) -> Render:
        """Start a render in `root`, or resume the same one.

        Args:
            root: folder of the render.
            content: the result of `render_content`.
            scene: folder of the scene.
            fps: frames per second of the path.
            names: names of the poses.

        Raises:
            CacheError: as for `create`.
        """
        return cls.create(root, content, {"scene": str(scene), "fps": fps, "names": list(names)})

    @property
    def scene(self) -> Path:
        """The folder of the scene."""
        return Path(self.facts["scene"])

    @property
    def fps(self) -> float:
        """Frames per second of the path."""
        return float(self.facts["fps"])

    @property
    def names(self) -> list[str]:
        """Names of the poses."""
        return self.facts["names"]

    @cached_property
    def cameras(self) -> list[Camera]:
        """The poses."""
        return [Camera(**camera) for camera in self.content["cameras"]]

    @property
    def views(self) -> int:
        """Source photos per pose, at most."""
        return self.content["views"]

    @property
    def version(self) -> str:
        """The version of lift3d that rendered it."""
        return self.content["version"]

    @property
    def renderer(self) -> Mapping[str, Any]:
        """Settings of the renderer, which differ between renderers with different results."""
        return self.content["renderer"]

    @property
    def samples(self) -> int:
        """Samples per ray."""
        return self.renderer["num_samples"]

    @property
    def planes(self) -> int | None:
        """The most depth planes of Stage I, None if it has none."""
        return self.renderer["proposal"].get("num_planes")

    @property
    def precision(self) -> str | None:
        """Precision of the networks, None without networks."""
        return self.renderer["proposal"].get("precision")

    @property
    def weights(self) -> str | None:
        """The sha256, as hex, of the networks' weights, None without networks."""
        return self.renderer["blending"].get("weights")

    @property
    def has_confidence(self) -> bool:
        """False in renders of earlier versions."""
        return "confidence" in self.content.get("maps", ())

    def depth_range(self, index: int) -> tuple[float, float]:
        """Return near and far z-depth of a pose."""
        near, far, _ = self.content["choices"][index]
        return near, far

    def color_path(self, index: int) -> Path:
        """Return the path of a frame's colours. Write them before the maps, which mark the frame as complete."""
        return self.root / "color" / f"{index:05d}.png"

    def has_frame(self, index: int) -> bool:
        """Return True if colours and maps of a frame can be read."""
        return super().has_frame(index) and is_whole_png(self.color_path(index))

    def confidence_path(self, index: int) -> Path:
        """Return the path of a frame's confidence as a grey image, which may not exist."""
        return self.root / "confidence" / f"{index:05d}.png"

    def write_maps(self, index: int, maps: FrameMaps, later: Later = at_once) -> None:
        """Store the maps of a frame; see `write_frame`."""
        import torch

        from lift3d_cli.geometry.grids import FeatureGrid

        height, width = maps.depth.shape
        extra = {"coverage": maps.coverage, "confidence": maps.confidence}
        extra["sources"] = torch.tensor(list(maps.sources), dtype=torch.int32)
        self.write_frame(index, maps.depth[None].cpu(), FeatureGrid(width, height, (1.0, 1.0)), extra, later)

    def read_maps(self, index: int) -> FrameMaps:
        """Read the maps of a frame, memory-mapped.

        Raises:
            CacheError: as for `read_frame`.
        """
        depth, _, extra = self.read_frame(index)
        return FrameMaps(depth[0], extra["coverage"], extra.get("confidence"), extra["sources"].tolist())

    def begin_features(self, encoder: EncoderRecord, dtype: str) -> FeatureRender:
        """Start an encoder's lifted features, or resume them; they may be added after the colours.

        Args:
            encoder: the encoder of the photos' features.
            dtype: storage type, a key of `DTYPES`.

        Raises:
            CacheError: as for `create`.
        """
        facts = {"ref": encoder.ref, "model": encoder.name, "fingerprint": dict(encoder.fingerprint)}
        return FeatureRender.create(*self._features(encoder, dtype), facts)

    def missing_features(self, encoder: EncoderRecord, dtype: str) -> list[int]:
        """List the frames that `begin_features` would still have to render; nothing is written.

        Raises:
            CacheError: as for `find`.
        """
        folder, content = self._features(encoder, dtype)
        there = FeatureRender.find(folder, render_key(content))
        return list(range(self.num_frames)) if there is None else there.missing()

    def _features(self, encoder: EncoderRecord, dtype: str) -> tuple[Path, dict[str, object]]:
        """Return the folder of an encoder's lifted features, and what these depend on."""
        content = {"frames": self.num_frames, "dtype": dtype, "render": self.key, "encoder": encoder.key}
        folder = f"{slug(encoder.name, 'model')}-{render_key(content)[:8]}"
        return self.root / "feats" / folder, content

    def feature_renders(self) -> list[FeatureRender]:
        """Open all features in this render, finished or not; the last rendered ones are at the end.

        Raises:
            CacheError: if a manifest is damaged or of another version.
        """
        return [FeatureRender.open(file.parent) for file in by_last_use(self.root.glob(f"feats/*/{MANIFEST}"))]


class FeatureRender(FrameFolder):
    """One model's features, lifted to the poses of a render."""

    @property
    def model(self) -> str:
        """Name of the model."""
        return self.facts["model"]

    @property
    def ref(self) -> str:
        """The user's `--model` argument when the photos were encoded."""
        return self.facts["ref"]

    @property
    def encoder(self) -> str:
        """Key of the encoder of the photos' features, see `EncoderRecord`."""
        return self.content["encoder"]

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """Identity of the model and its settings, see `EncoderRecord`."""
        return self.facts["fingerprint"]

    @property
    def max_size(self) -> int | None:
        """The longest side in pixels that photos were encoded at, None for any."""
        return self.fingerprint["max_size"]
