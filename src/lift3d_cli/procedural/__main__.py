"""Write the example scene: `python -m lift3d_cli.procedural --output examples/tabletop --seed 1`.

The folder gets `images/` and `transforms.json` (nerfstudio's format), with `--depth` also `depth/`, and in `held_out/`
photos from between them as a scene of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from torch import Generator

from lift3d_cli.errors import Lift3dError, SceneError
from lift3d_cli.geometry.cameras import Camera
from lift3d_cli.procedural.lighting import Quality
from lift3d_cli.procedural.scene import ProceduralScene
from lift3d_cli.procedural.stream import vary_photos
from lift3d_cli.procedural.tabletop import tabletop
from lift3d_cli.procedural.tabletop_cameras import tabletop_cameras

# 4 samples per pixel, which together test 32 directions of the sun and 64 of the sky.
_QUALITY = Quality(supersample=2, shadow_rays=8, sky_rays=16)
# A quarter of what a phone does: visible as grain and slight exposure changes, but no obstacle to a first try.
_LENS_NOISE = 0.25
# Of 16 bits; 65535 means in many a sensor's files that nothing was measured.
_LARGEST_DEPTH = 65534
_OPENCV_FROM_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


def write_scene(
    scene: ProceduralScene,
    cameras: Sequence[Camera],
    folder: Path,
    quality: Quality,
    jpeg: int,
    generator: Generator,
    has_depth: bool = False,
) -> None:
    """Render the photos of one scene folder, with slight lens noise, and write them with their poses.

    Args:
        scene: the scene to photograph.
        cameras: cameras, all of one size and lens.
        folder: gets `images/` and `transforms.json`.
        quality: quality of the pictures.
        jpeg: JPEG quality, 0 to 100.
        generator: random numbers of the noise.
        has_depth: also write the exact z-depth of each photo, as 16-bit PNG in `depth/`.

    Raises:
        SceneError: if a file cannot be written.
    """
    data = {**_lens(cameras[0]), "frames": []}
    try:
        (folder / "images").mkdir(parents=True, exist_ok=True)
        depths = {}
        for number, camera in enumerate(cameras):
            name = f"images/{number:03d}.jpg"
            image, depths[f"depth/{number:03d}.png"] = scene.render(camera, quality)
            image = vary_photos(image[None], generator, _LENS_NOISE)[0]
            pixels = (image.permute(1, 2, 0).cpu().numpy()[..., ::-1] * 255).round().astype(np.uint8)
            ok, encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, jpeg])
            if not ok:
                raise SceneError(f"{folder / name}: OpenCV cannot encode this picture")
            (folder / name).write_bytes(encoded.tobytes())
            pose = (camera.c2w @ _OPENCV_FROM_OPENGL).tolist()
            data["frames"].append({"file_path": name, "transform_matrix": pose})
            sys.stderr.write(f"{folder / name}\n")
        if has_depth:
            data["depth_unit_scale_factor"] = _write_depths(
                folder, {name: d.cpu().numpy() for name, d in depths.items()}
            )
            for frame, name in zip(data["frames"], depths, strict=True):
                frame["depth_file_path"] = name
        (folder / "transforms.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    except OSError as e:
        raise SceneError(f"{folder}: cannot be written ({e.strerror or e})") from e


def _lens(camera: Camera) -> dict[str, object]:
    """Return the intrinsics of all photos as `transforms.json` has them."""
    return {
        "camera_model": "PINHOLE",
        "w": camera.width,
        "h": camera.height,
        "fl_x": camera.K[0, 0],
        "fl_y": camera.K[1, 1],
        "cx": camera.K[0, 2],
        "cy": camera.K[1, 2],
    }


def _write_depths(folder: Path, depths: Mapping[str, np.ndarray]) -> float:
    """Write maps [H, W] of z-depth by name as 16-bit PNG, 0 where nothing is hit; returns the unit, of all alike.

    Raises:
        OSError: if a file cannot be written.
    """
    hit = {name: np.where(np.isfinite(depth), depth, 0) for name, depth in depths.items()}
    unit = max(float(depth.max()) for depth in hit.values()) / _LARGEST_DEPTH or 1.0
    for name, depth in hit.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        _, encoded = cv2.imencode(".png", (depth / unit).round().astype(np.uint16))
        (folder / name).write_bytes(encoded.tobytes())
    return unit


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m lift3d_cli.procedural", description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=1, help="textures and details (default: %(default)s)")
    parser.add_argument("--views", type=int, default=14, help="number of photos (default: %(default)s)")
    parser.add_argument("--held-out", type=int, default=3, help="number of photos held out (default: %(default)s)")
    parser.add_argument("--width", type=int, default=640, help="pixels (default: %(default)s)")
    parser.add_argument("--height", type=int, default=480, help="pixels (default: %(default)s)")
    parser.add_argument("--jpeg-quality", type=int, default=90, help="0 to 100 (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="torch device (default: %(default)s)")
    parser.add_argument("--draft", action="store_true", help="fast: hard shadows, one sample per pixel")
    parser.add_argument("--depth", action="store_true", help="also write the exact depth of each photo")
    args = parser.parse_args(arguments)
    scene = tabletop(args.seed, args.device)
    quality = Quality() if args.draft else _QUALITY
    generator = Generator(args.device).manual_seed(args.seed)
    try:
        for folder, count, held_out in (
            (args.output, args.views, False),
            (args.output / "held_out", args.held_out, True),
        ):
            if count > 0:
                cameras = tabletop_cameras(count, args.width, args.height, args.seed, held_out)
                write_scene(scene, cameras, folder, quality, args.jpeg_quality, generator, args.depth)
    except Lift3dError as e:
        sys.stderr.write(f"error: {e}\n")
        return e.exit_code
    sys.stdout.write(f"{args.output}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
