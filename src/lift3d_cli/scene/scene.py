"""The scene that every reader returns, whatever the format on disk. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lift3d_cli.geometry.cameras import Camera


@dataclass(frozen=True)
class Distortion:
    """Lens distortion from the pinhole image of a `Camera` to the photo on disk, of the same K and size.

    Args:
        model: "opencv" (coeffs k1 k2 p1 p2 [k3 k4 k5 k6]) or "opencv_fisheye" (k1 k2 k3 k4), as OpenCV defines them;
            or "brown" (k1 k2 p1 p2 k3 k4), with the radial factor 1 + k1 r^2 + k2 r^4 + k3 r^6 + k4 r^8.
        coeffs: the coefficients.
    """

    model: str
    coeffs: tuple[float, ...]


@dataclass(frozen=True)
class DepthFile:
    """Where the depth of a photo is stored, as it was found; see `depth_maps.read_depth_map`.

    Args:
        path: the file, or a mesh that is drawn.
        unit: world units of a stored value of 1, or None where nobody says.
        camera: the pinhole camera, at the photo's pose, of a map that shows something else than the photo; or None.
        is_undistorted: True if the map shows what the photo does after its distortion is undone.
        is_settled: True if the format leaves no doubt that values are z-depths in world units.
        is_found: True if it lay where depth usually lies, and neither the scene's file nor the user names it.
    """

    path: Path
    unit: float | None = None
    camera: Camera | None = None
    is_undistorted: bool = False
    is_settled: bool = False
    is_found: bool = False


@dataclass(frozen=True)
class KnownDepth:
    """The depth of a photo that somebody measured or made elsewhere.

    Args:
        depth: [h, w] float32 z-depth in world units, 0 where it is unknown; in the camera of the undistorted photo,
            resized to w x h.
    """

    depth: np.ndarray


@dataclass(frozen=True)
class View:
    """One posed photo.

    Args:
        name: the photo's path relative to the scene, with slashes; unique; views are sorted by it in natural
            order.
        image_path: the photo.
        camera: the pinhole camera of the undistorted photo, in the photo's full size.
        distortion: lens distortion, undone by `read_photo`; or None.
        mask_path: an image that is 0 where the photo must not be used, or None.
        depth_range: (near, far) z-depth that the scene's file gives for this view, or None.
        depth_file: where its depth is stored, or None.
    """

    name: str
    image_path: Path
    camera: Camera
    distortion: Distortion | None = None
    mask_path: Path | None = None
    depth_range: tuple[float, float] | None = None
    depth_file: DepthFile | None = None


@dataclass(frozen=True)
class Photo:
    """The pixels of one view, undistorted.

    Args:
        image: [H, W, 3] uint8 sRGB; transparent pixels are composited on white.
        valid: [H, W] bool, True where the pixel may be used: not masked, not an undistortion border.
        opaque: [H, W] bool, True where the photo is not transparent.
    """

    image: np.ndarray
    valid: np.ndarray
    opaque: np.ndarray


@dataclass(frozen=True)
class Scene:
    """Posed photos. Views are in the natural order of their names.

    Args:
        root: folder of the scene.
        format: "nerfstudio", "blender", "colmap" or "llff".
        views: at least one.
        points: [N, 3] world surface points (COLMAP), or None where the format has none.
        warnings: lines for the user, such as the number of photos that are listed but missing.
        unread_keys: keys of the scene's file that are not understood, and change no picture as far as is known.
    """

    root: Path
    format: str
    views: tuple[View, ...]
    points: np.ndarray | None = None
    warnings: tuple[str, ...] = field(default=())
    unread_keys: tuple[str, ...] = field(default=())

    @property
    def cameras(self) -> list[Camera]:
        """The views' cameras, in their order."""
        return [view.camera for view in self.views]
