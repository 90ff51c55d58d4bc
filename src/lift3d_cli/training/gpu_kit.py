"""Make the folder that a bare GPU machine trains from: `make gpu-kit`.

It has the package, its GPU tests, the packed scenes, and `run.sh`, which runs everything without supervision. It trains
what `lift3d train` trains, with the options that `run.sh` passes.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from lift3d_cli.errors import SceneError
from lift3d_cli.scene.load import load_scene
from lift3d_cli.training.command import say
from lift3d_cli.training.pack import pack_scene
from lift3d_cli.weights import WEIGHT_FOLDERS

REPOSITORY = Path(__file__).resolve().parents[3]
MAX_BYTES = 55 * 2**20
DEVELOPMENT = (
    "fox", "fountain_p11", "kitchen", "desk_monitors", "rail_a", "south_building", "dorm_room", "monstree",
    "kumamon_plush",
)  # fmt: skip
"""Scenes of the development evaluation, which are never trained on."""
# Longer sides in pixels, and JPEG qualities; the development photos suffice for `lift3d eval --height 320`.
_EVAL_SIZE, _EVAL_QUALITY, _LEFT_OUT = 576, 82, 8
_TRAIN_SIZE, _TRAIN_QUALITY, _TRAIN_PHOTOS = 640, 72, 30
_TEXTURES = 100
_NOT_COPIED = shutil.ignore_patterns("__pycache__", "*.pyc", "_weights")


def make_kit(
    out: Path, scenes: Path, photos: Path, max_photos: int = _TRAIN_PHOTOS, state: Path | None = None
) -> dict[str, int]:
    """Write the kit; return the bytes of each part.

    Args:
        out: folder of the kit, made anew.
        scenes: a folder of scenes; those named in `DEVELOPMENT` are for evaluation, the others for training.
        photos: photos for the textures of procedural scenes.
        max_photos: the most photos of a training scene.
        state: a run's checkpoint to resume from, or None to start from the shipped weights.

    Raises:
        SceneError: if there are no scenes or photos, or the kit is too large.
    """
    folders = sorted(path for path in scenes.glob("*") if path.is_dir())
    textures = sorted(photos.rglob("*.jpg"))[:_TEXTURES]
    if not folders or not textures:
        raise SceneError(f"{scenes}, {photos}: need folders of scenes, and .jpg photos. hint: SCENES=… PHOTOS=…")
    shutil.rmtree(out, ignore_errors=True)
    for name in ("src", "tests", "benchmarks", "examples"):
        shutil.copytree(REPOSITORY / name, out / name, ignore=_NOT_COPIED)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(REPOSITORY / name, out / name)
    shutil.copytree(next(folder for folder in WEIGHT_FOLDERS if folder.is_dir()), out / "weights")
    shutil.copy(Path(__file__).with_name("gpu_kit.sh"), out / "run.sh")
    (out / "run.sh").chmod(0o755)  # an installed package's files are not executable
    (out / "textures").mkdir()
    for number, photo in enumerate(textures):
        shutil.copy(photo, out / "textures" / f"{number:03d}.jpg")
    if state is not None:
        shutil.copy(state, out / "state.safetensors")
    for folder in folders:
        if folder.name in DEVELOPMENT:
            # All photos, so that `lift3d eval` leaves out the same ones as from the scene itself.
            pack_scene(folder, out / "dev" / folder.name, _EVAL_SIZE, _EVAL_QUALITY, left_out=_LEFT_OUT)
        else:
            pack_scene(folder, out / "train" / folder.name, _TRAIN_SIZE, _TRAIN_QUALITY, max_photos)
    for path in [*out.glob("dev/*"), *out.glob("train/*")]:
        load_scene(path)
    sizes = {part.name: _bytes(part) for part in sorted(out.iterdir())}
    total = sum(sizes.values())
    if total > MAX_BYTES:
        raise SceneError(f"{out}: has {total / 2**20:.1f} MiB, more than {MAX_BYTES >> 20}. hint: fewer --max-photos")
    return sizes | {"total": total}


def _bytes(path: Path) -> int:
    return sum(p.stat().st_size for p in ([path] if path.is_file() else path.rglob("*")) if p.is_file())


def main() -> None:
    """Parse the command line and make the kit."""
    parser = argparse.ArgumentParser(prog="python -m lift3d_cli.training.gpu_kit", description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--scenes", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--max-photos", type=int, default=_TRAIN_PHOTOS)
    parser.add_argument("--state", type=Path)
    given = parser.parse_args()
    try:
        say(make_kit(given.out, given.scenes, given.photos, given.max_photos, given.state))
    except SceneError as e:
        raise SystemExit(f"error: {e}") from e


if __name__ == "__main__":
    main()
