"""Cameras and points of a render for the page's 3-D plot: z up, centred at 0, with a size of about 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.report.collect import ReportedRender
from lift3d_cli.report.pictures import jpeg, shrunk

# Size of a drawn frustum relative to the plot, and up to how many photos; with more, each is smaller.
_FRUSTUM, _FEW = 0.16, 30


def plot_data(
    run: ReportedRender, thumbnail: int, max_points: int, photo_names: Sequence[str], frame_names: Sequence[str]
) -> dict[str, object]:
    """Return JSON values: `photos` and `path`, each camera's centre and image corners [5, 3]; coloured `points` [N, 6].

    Args:
        run: the render.
        thumbnail: longer side of the photos' thumbnails, in pixels.
        max_points: the most points; more are thinned out evenly.
        photo_names, frame_names: what to call the photos and the poses.
    """
    scene = run.workspace.scene
    points = run.workspace.points()
    points = points[:: max(1, -(-len(points) // max_points))]
    small = [shrunk(run.workspace.photo(i).image, thumbnail) for i in range(len(scene.views))]
    rotation, middle, scale = _plot_frame(scene.cameras, points)

    frustum = _FRUSTUM / scale * min(1, (_FEW / len(small)) ** 0.5)

    def placed(xyz: np.ndarray) -> list:
        return ((xyz - middle) @ rotation.T * scale).round(4).tolist()

    colored = np.concatenate([(points - middle) @ rotation.T * scale, _colors(points, scene.cameras, small)], 1)
    inside = (np.abs(colored[:, :3]) < 3).all(1)
    return {
        "photos": [
            {"name": name, "at": placed(_corners(view.camera, frustum)), "picture": jpeg(image, thumbnail)}
            for name, view, image in zip(photo_names, scene.views, small, strict=True)
        ],
        "path": [
            {"name": name, "at": placed(_corners(camera, frustum))}
            for name, camera in zip(frame_names, run.cameras, strict=True)
        ],
        "points": colored[inside].round(3).tolist(),
    }


def _plot_frame(cameras: Sequence[Camera], points: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the plot's rotation [3, 3], centre [3] and scale; up is the up direction of most photos."""
    up = -np.mean([camera.w2c[1, :3] for camera in cameras], 0)
    forward = np.mean([camera.forward for camera in cameras], 0)
    up = up / np.linalg.norm(up) if np.linalg.norm(up) > 1e-6 else np.eye(3)[1]
    ahead = forward - up * (up @ forward)
    if np.linalg.norm(ahead) < 1e-6:  # all look down, or in all directions
        ahead = np.cross(up, np.eye(3)[np.argmin(np.abs(up))])
    ahead /= np.linalg.norm(ahead)
    rotation = np.stack([np.cross(ahead, up), ahead, up])
    positions = np.stack([camera.position for camera in cameras])
    # The photos' subject: the nearer points, not the hills behind them.
    depths = [np.percentile(z[z > 0], 20) for z in (c.project(points)[1] for c in cameras) if (z > 0).any()]
    depth = float(np.median(depths)) if depths else np.linalg.norm(np.ptp(positions, axis=0))
    looked_at = positions + depth * np.stack([camera.forward for camera in cameras])
    all_of_it = np.concatenate([positions, looked_at])
    middle = (all_of_it.min(0) + all_of_it.max(0)) / 2
    return rotation, middle, 1 / max(np.linalg.norm(all_of_it - middle, axis=1).max(), 1e-9)


def _corners(camera: Camera, size: float) -> np.ndarray:  # [5, 3] world
    """Return the camera's centre and the corners of its image, `size` wide or high, clockwise from the top left."""
    corners = np.array([(0, 0), (camera.width, 0), (camera.width, camera.height), (0, camera.height)], float)
    rays = np.c_[corners, np.ones(4)] @ np.linalg.inv(camera.K).T
    rays *= size / np.ptp(rays, axis=0)[:2].max()
    return np.concatenate([camera.position[None], rays @ camera.w2c[:3, :3] + camera.position])


def _colors(points: np.ndarray, cameras: Sequence[Camera], images: Sequence[np.ndarray]) -> np.ndarray:  # [N, 3]
    """Return the median colour of each point over the photos that it projects into, ignoring occlusion."""
    seen = np.full((len(images), len(points), 3), np.nan, np.float32)
    for colors, camera, image in zip(seen, cameras, images, strict=True):
        uv, z = camera.resized(image.shape[1], image.shape[0]).project(points)
        inside = (z > 0) & (uv >= 0).all(1) & (uv < image.shape[1::-1]).all(1)
        u, v = uv[inside].astype(int).T
        colors[inside] = image[v, u]
    seen[0][np.isnan(seen).all(0)] = 128  # in no photo
    return np.nanmedian(seen, 0).round()
