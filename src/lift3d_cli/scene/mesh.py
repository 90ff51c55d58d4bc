"""The depth of a mesh as a camera sees it: rays cast at its triangles by Embree, an optional extra."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from lift3d_cli.errors import ResourceError, SceneError
from lift3d_cli.geometry.cameras import MAX_DISTANCE, Camera

MESH_SUFFIXES = (".ply", ".obj")
"""Endings of meshes."""
# A mesh is rarely finer than this, and casting takes 0.3 s at this size.
_LONG_SIDE_PX = 800
# Embree gives 1e37 where a ray hits nothing.
_NOTHING_HIT = 1e30


def draw_depth(path: Path, camera: Camera) -> np.ndarray:  # [h, w] float32
    """Find the z-depth of a mesh at the pixel centres, of a smaller picture where the camera's is large; 0 for none.

    Raises:
        SceneError: if the file is no mesh.
        ResourceError: if the libraries are not installed.
    """
    shrink = min(1.0, _LONG_SIDE_PX / max(camera.width, camera.height))
    camera = camera.resized(max(1, round(camera.width * shrink)), max(1, round(camera.height * shrink)))
    try:
        triangles, centre, size = _embree_scene(path, path.stat().st_mtime_ns)
    except OSError as e:
        raise SceneError(f"{path}: cannot be read ({e.strerror or e})") from e
    u, v = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    pixels = np.stack([u, v, np.ones_like(u)], axis=-1).reshape(-1, 3)
    # Rays of unit z, so that their parameter is the z-depth.
    directions = (pixels @ np.linalg.inv(camera.K).T @ camera.w2c[:3, :3]).astype(np.float32)
    origins = np.broadcast_to(((camera.position - centre) / size).astype(np.float32), directions.shape)
    depth = triangles.run(np.ascontiguousarray(origins), directions, query="DISTANCE")
    return np.where(depth < _NOTHING_HIT, size * depth, 0).astype(np.float32).reshape(camera.height, camera.width)


@lru_cache(maxsize=1)
def _embree_scene(path: Path, changed_ns: int):
    """Load a mesh's triangles into Embree, less a centre [3] and by its size, as it computes in float32."""
    try:
        import trimesh
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene
    except ImportError as e:
        raise ResourceError(f"{path}: {e.name} is not installed. hint: pip install 'lift3d-cli[depth]'") from e
    try:
        mesh = trimesh.load(path, force="mesh", process=False, skip_materials=True)
        corners = np.asarray(mesh.vertices, dtype=np.float64)[np.asarray(mesh.faces)]
    except Exception as e:  # whatever a damaged file makes it stumble over
        reason = (str(e).splitlines() or [type(e).__name__])[0][:120]
        raise SceneError(f"{path}: cannot be read as a mesh ({reason}). hint: PLY or OBJ with triangles") from e
    if corners.shape[1:] != (3, 3):  # faces of no triangles, or corners of two coordinates
        corners = np.empty((0, 3, 3))
    corners = corners[(np.abs(corners) < MAX_DISTANCE).all(axis=(1, 2))]
    if not len(corners):
        raise SceneError(f"{path}: has no triangles. hint: a point cloud hides nothing; make a mesh of it")
    centre = corners.reshape(-1, 3).mean(axis=0)
    size = float(np.abs(corners - centre).max()) or 1.0
    triangles = EmbreeScene()
    TriangleMesh(triangles, ((corners - centre) / size).astype(np.float32))
    return triangles, centre, size
