"""The depth that a scene's photos come with: understood and checked once, then read photo by photo."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lift3d_cli.cache.format import key_of
from lift3d_cli.scene.depth_maps import DEPTH_KINDS, read_depth_map, z_depth
from lift3d_cli.scene.scene import KnownDepth

if TYPE_CHECKING:
    from lift3d_cli.pipeline.workspace import Workspace

# Of the readers: what the same file gives another depth with is another depth.
_VERSION = 1


class KnownDepths:
    """The depth of a workspace's photos by index.

    Args:
        workspace: the scene.
        hidden: photos that have none, and that nothing is judged by, as they are left out.
    """

    def __init__(self, workspace: Workspace, hidden: frozenset[int]) -> None:
        self._workspace = workspace
        self._hidden = hidden

    def read(self, index: int) -> KnownDepth | None:
        """See `Workspace.known_depth`."""
        if not self.key(index):
            return None
        view = self._workspace.scene.views[index]
        stored = read_depth_map(view)
        return KnownDepth(z_depth(stored.values, DEPTH_KINDS[0], stored.unit, view.camera))

    def key(self, index: int) -> str:
        """See `Workspace.depth_key`."""
        view = self._workspace.scene.views[index]
        file = view.depth_file
        if file is None or index in self._hidden:
            return ""
        lens = file.camera and [file.camera.K.tolist(), file.camera.width, file.camera.height]
        return key_of(
            "depth",
            {
                "version": _VERSION,
                "file": self._workspace.sha256(file.path),
                "photo": self._workspace.record(index).key,
                "unit": file.unit,
                "lens": lens,
                "is_undistorted": file.is_undistorted,
            },
        )

    def warnings(self) -> tuple[str, ...]:
        """See `Workspace.depth_warnings`."""
        return ()
