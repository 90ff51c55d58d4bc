"""The cameras of the example scene's photos."""

from __future__ import annotations

import numpy as np

from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.geometry.rigs import look_at

ARC = np.radians(120.0)
FOCUS = np.array([0.0, 0.12, 0.25])


def tabletop_cameras(num_views: int, width: int, height: int, seed: int, held_out: bool = False) -> list[Camera]:
    """Place hand-held cameras on an arc of 120 degrees around the table, 9 degrees apart for 14 views.

    Args:
        num_views: number of cameras.
        width, height: size of their pictures, in pixels.
        seed: seed of the hand's unsteadiness.
        held_out: cameras well inside the arc instead of from end to end.
    """
    rng = np.random.default_rng((seed, int(held_out)))
    share = np.linspace(-0.5, 0.5, num_views) if not held_out else (np.arange(num_views) + 0.5) / num_views - 0.5
    focal = 0.95 * width
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    cameras = []
    for number, along in enumerate(share):
        azimuth = -np.pi / 2 + along * ARC
        # Two alternating heights give the vertical parallax that one row of photos lacks.
        elevation = np.radians(14 + (0 if held_out else 4 * (-1) ** number)) + rng.normal(0, 0.015)
        radius = 2.55 + rng.normal(0, 0.04)
        level = radius * np.cos(elevation)
        position = FOCUS + np.array([level * np.cos(azimuth), level * np.sin(azimuth), radius * np.sin(elevation)])
        target = FOCUS + rng.normal(0, 0.015, 3)
        cameras.append(Camera(K, look_at(position, target, np.array([0.0, 0.0, 1.0])), width, height))
    return cameras
