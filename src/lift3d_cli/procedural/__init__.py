"""Random textured scenes with exact depth, rendered by casting rays: for training, tests and the example scene.

This package needs torch, so modules that must start fast do not import it.
"""

from lift3d_cli.procedural.library import TextureLibrary
from lift3d_cli.procedural.lighting import Quality
from lift3d_cli.procedural.scene import ProceduralScene, SceneSpec
from lift3d_cli.procedural.stream import StreamSpec, stream, vary_photos

__all__ = ["ProceduralScene", "Quality", "SceneSpec", "StreamSpec", "TextureLibrary", "stream", "vary_photos"]
