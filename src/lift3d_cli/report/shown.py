"""What a page shows, and by which names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lift3d_cli.report.collect import ReportedRender, for_others
from lift3d_cli.report.compare import Comparison
from lift3d_cli.report.metrics_files import without_names


@dataclass(frozen=True)
class Size:
    """Sizes of pictures: sides in pixels, number of frames to choose from, quality of videos (lower is better)."""

    picture: int
    stills: int
    video: int
    crf: int
    thumbnail: int
    points: int


@dataclass
class Shown:
    """The data to show, at full size.

    Args:
        run: the render.
        decoded: by task, the pictures of the shown frames.
        compared: by task, the 2D model's results.
        corrected: by model, |R| of the frames `chosen`.
        chosen: indices in `run.frames`.
        notes: why something is not shown, by its name.
        metrics: results of `eval --json`, by name.
        is_public: leave out names of photos, commands and versions.
    """

    run: ReportedRender
    decoded: Mapping[str, Sequence[np.ndarray]]
    chosen: Sequence[int]
    compared: dict[str, Comparison] = field(default_factory=dict)
    corrected: Mapping[str, Sequence[np.ndarray]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    metrics: Mapping[str, object] = field(default_factory=dict)
    is_public: bool = False

    def private_photos(self) -> dict[str, str]:
        """Return what to call each photo instead of its name, for a public page; nothing for another."""
        views = self.run.workspace.scene.views
        return dict(zip((view.name for view in views), self.photo_names(), strict=True)) if self.is_public else {}

    def said(self, text: str) -> str:
        """Return a line of lift3d as the page may have it, see `for_others`; a public one without names."""
        frames = {name: f"viewpoint {n + 1}" for n, name in enumerate(self.run.render.names) if self.is_public}
        return without_names(for_others(text), frames | self.private_photos())

    def photo_names(self) -> list[str]:
        """Return the photos' names, or numbers for a public page."""
        views = self.run.workspace.scene.views
        return [f"photo {n + 1}" if self.is_public else view.name for n, view in enumerate(views)]

    def frame_names(self) -> list[str]:
        """Return the poses' names, which may be those of photos; or numbers for a public page."""
        names = self.run.render.names
        return [f"{n + 1}" for n in range(len(names))] if self.is_public else names
