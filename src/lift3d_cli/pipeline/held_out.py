"""The held-out protocol of evaluation and training: some photos are left out and rendered from the others.

A left-out photo is never a source, and pixels without ground truth (undistortion borders, masked or transparent ones)
do not count.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import torch
from torch import Tensor

from lift3d_cli.cache.format import canonical_json
from lift3d_cli.config import EvalConfig
from lift3d_cli.errors import SceneError
from lift3d_cli.lifting.exposure import shifted, tone_difference
from lift3d_cli.lifting.renderer import Renderer
from lift3d_cli.pipeline.encode import to_image
from lift3d_cli.pipeline.lift import SceneLifter
from lift3d_cli.pipeline.surfaces import PhotoSurfaces
from lift3d_cli.pipeline.workspace import ResizedWorkspace
from lift3d_cli.scene.scene import Scene


def split(scene: Scene, every: int, held_out: Sequence[int] = ()) -> tuple[list[int], list[int]]:
    """Split a scene into the photos to leave out, every n-th from the first, and those to render from; indices of both.

    Args:
        scene: the scene.
        every: which n.
        held_out: the photos to leave out instead.

    Raises:
        SceneError: if none is left to render from.
    """
    left_out = list(held_out or range(0, len(scene.views), max(1, every)))
    candidates = [i for i in range(len(scene.views)) if i not in left_out]
    if every < 2 or not candidates:
        raise SceneError(f"{scene.root}: --every {every} leaves no photo to render from. hint: 2 or more")
    return left_out, candidates


def psnr(
    image: Tensor,  # [..., H, W] in [0, 1]
    truth: Tensor,  # the same
    counts: Tensor | None = None,  # [H, W] bool: the pixels that have ground truth; None for all
) -> float:
    """Measure the peak signal-to-noise ratio in dB over the pixels that count; infinite for equal images."""
    error = (image - truth).square()
    return float(-10 * torch.log10((error if counts is None else error[..., counts]).mean()))


class HeldOutPhotos(ResizedWorkspace):
    """A scene's photos at one height, some of them held out; several evaluation protocols may share them.

    Args:
        scene: at least two photos, one of which is not held out.
        height: height of the photos in pixels; 0 keeps their size.
        every: every n-th photo, from the first, is held out.
        views: source photos per held-out photo, at most.
        held_out: the photos to leave out, instead of every n-th.

    Raises:
        SceneError: if none is left to render from.
    """

    def __init__(
        self,
        scene: Scene,
        height: int = EvalConfig.height,
        every: int = EvalConfig.every,
        views: int = EvalConfig.views,
        held_out: Sequence[int] = (),
    ) -> None:
        self.held_out, self.candidates = split(scene, every, held_out)
        super().__init__(scene, height, keep=8 * views, hidden=frozenset(self.held_out))
        self._views = views
        self._surfaces: dict[str, PhotoSurfaces] = {}

    def truth(self, index: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Return a photo's pixels [3, H, W] in [0, 1], and which of them [H, W] (bool) are ground truth."""
        camera = self.camera(index)
        photo = self.resized(index, camera.width, camera.height)
        return to_image(photo, device), torch.from_numpy(photo.valid & photo.opaque).to(device)

    def lifter(self, renderer: Renderer, device: torch.device, views: int = 0) -> SceneLifter:
        """Make a lifter that renders from the photos that are not held out, `views` at most; 0 for the usual number."""
        points, finder = self.points(self.candidates), renderer.surface_finder
        surfaces = None
        if finder is not None:
            key = canonical_json(finder.settings())
            if key not in self._surfaces:
                self._surfaces[key] = PhotoSurfaces(self, points, finder, device, self.candidates)
            surfaces = self._surfaces[key]
        return SceneLifter(self, points, renderer, views or self._views, device, self.candidates, surfaces)

    def mean_psnr(
        self, renderer: Renderer, device: torch.device, indices: Sequence[int], any_exposure: bool = False
    ) -> float:
        """Measure the mean PSNR in dB of some of the left-out photos.

        Args:
            renderer: renders them.
            device: where.
            indices: of the photos.
            any_exposure: first give each photo the exposure of what is rendered, since that of a frame is a guess.
        """
        lifter, each = self.lifter(renderer, device), []
        for index in indices:
            camera = self.camera(index)
            image = lifter.lift(lifter.plan(camera, lifter.choose(camera))).frame.image.cpu()
            truth, counts = self.truth(index)
            if any_exposure:
                apart = tone_difference(image[None], truth[None], counts[None])
                truth = shifted(truth[None], apart)[0]
            each.append(psnr(image, truth, counts))
        return statistics.fmean(each)
