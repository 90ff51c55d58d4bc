"""lift3d: make any 2D vision model 3D-consistent (an implementation of Lift3D, CVPR 2024).

The public names are loaded on first use, so that `import lift3d_cli` does not import torch.
"""

from __future__ import annotations

# Nothing is imported here: an interrupt while that goes on would come before what handles it.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Camera": "lift3d_cli.geometry.cameras",
    "DecodeContext": "lift3d_cli.models.base",
    "FeatureGrid": "lift3d_cli.geometry.grids",
    "FeatureMap": "lift3d_cli.models.base",
    "FeatureModel": "lift3d_cli.models.heads",
    "Lift3dError": "lift3d_cli.errors",
    "Model": "lift3d_cli.models.base",
    "ModelSpec": "lift3d_cli.models.base",
    "RenderedView": "lift3d_cli.models.base",
    "Scene": "lift3d_cli.scene.scene",
    "Segmentation": "lift3d_cli.models.base",
    "load_scene": "lift3d_cli.scene.load",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_PUBLIC[name]), name)
