"""Print Table 4 of the paper on real photos: one thing in left-out photos, from strokes on another, lifted and in 2D.

    python benchmarks/segmentation.py SCENES --model dinov2
    python benchmarks/segmentation.py SCENES --model dinov2 --picture docs/images/segmentation.png
    python benchmarks/segmentation.py SCENES --draw OUTLINES

SCENES is a folder of scenes. `segmentation.json` has, for those it names, a photo with strokes on and beside one thing,
and this thing's outlines in left-out photos: by hand, moved to the nearest edge of colour by GrabCut (Rother et al.
2004), and looked at. Points are `x, y, x, y, ...` in pixels of a photo of `size`; an outline in another one is a hole.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import measuring
import numpy as np
from torch import Tensor

from lift3d_cli.config import EvalConfig
from lift3d_cli.evaluation.segmentation import VIEWS, measure_segmentation
from lift3d_cli.scene.load import load_scene

THINGS = Path(__file__).with_suffix(".json")
COLORS = {"thing": (255, 255, 255), "other": (0, 255, 0)}
"""Of the strokes, RGB."""
_WIDTH = 5  # of a stroke, in pixels
SHOWN = {"2d-on-photo": "2D", f"lifted-{VIEWS[1]}": "lifted"}
"""Methods in the picture, and what it calls them."""
# Of a pixel in the picture, by what it is and then by what was found: 0 for all else, 1 for the thing. BGR.
_MARKS = np.array([[(30, 30, 30), (48, 60, 220)], [(235, 125, 55), (235, 235, 235)]], np.uint8)
_HEIGHT, _LABEL, _GAP = 200, 22, 8


def draw(thing: Mapping[str, Any], folder: Path) -> None:
    """Draw a scene's strokes as `strokes.png`, and its masks as `masks/PHOTO.png`, white on the thing."""
    size = thing["size"]
    strokes = np.zeros((size[1], size[0], 3), np.uint8)
    for name, color in COLORS.items():
        cv2.polylines(strokes, _points(thing["strokes"][name]), isClosed=False, color=color[::-1], thickness=_WIDTH)
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / "strokes.png"), strokes)
    for photo, outlines in thing["masks"].items():
        mask = np.zeros((size[1], size[0]), np.uint8)
        cv2.fillPoly(mask, _points(outlines), 255)
        cv2.imwrite(str(folder / "masks" / f"{photo}.png"), mask)


def _points(lines: Sequence[Sequence[int]]) -> list[np.ndarray]:
    return [np.array(line, np.int32).reshape(-1, 2) for line in lines]


def measure(
    scene: Path, thing: Mapping[str, Any], model: str, size: int, masks: list[np.ndarray]
) -> dict[str, dict[str, float]]:
    """Measure one scene with photos of this longer side in pixels, see `measure_segmentation`.

    Its first left-out photo's masks are appended to `masks` as pictures.
    """
    shown: dict[str, np.ndarray] = {}

    def show(index: int, way: str, found: Tensor, truth: Tensor) -> None:
        if way in SHOWN and way not in shown:
            shown[way] = labelled(_MARKS[truth.cpu().numpy(), found.cpu().numpy()], f"{scene.name}, {SHOWN[way]}")

    height = round(size * thing["size"][1] / max(thing["size"]))
    with TemporaryDirectory() as folder:
        root = Path(folder)
        draw(thing, root)
        config = EvalConfig(
            every=thing["every"],
            height=height,
            views=max(VIEWS),
            model=model,
            strokes=root / "strokes.png",
            view=thing["view"],
            masks=root / "masks",
        )
        result = measure_segmentation(load_scene(scene), config, show=show)
    masks += [shown[way] for way in SHOWN]
    return result


def labelled(mask: np.ndarray, text: str) -> np.ndarray:
    """Return a picture at the height of the others, with a line of text above."""
    mask = cv2.resize(mask, (round(mask.shape[1] * _HEIGHT / mask.shape[0]), _HEIGHT), interpolation=cv2.INTER_AREA)
    picture = cv2.copyMakeBorder(mask, _LABEL, 0, 0, _GAP, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    cv2.putText(picture, text, (1, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    return picture


def main() -> None:
    """Measure and print, or draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenes", type=Path, help="folder of scenes, some with the names in segmentation.json")
    parser.add_argument("--model", default="dinov2", help="whose features are lifted [dinov2]")
    parser.add_argument("--size", type=int, default=384, help="longer side of the photos in pixels [384]")
    parser.add_argument("--things", type=Path, default=THINGS, help="strokes and outlines [segmentation.json]")
    parser.add_argument("--draw", type=Path, metavar="FOLDER", help="only draw strokes and masks, here")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="also show masks of a photo of each scene")
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    options = parser.parse_args()
    things = json.loads(options.things.read_text())
    things = {name: thing for name, thing in things.items() if (options.scenes / name).is_dir()}
    if not things:
        parser.error(f"{options.scenes}: has none of the scenes of {options.things.name}")
    if options.draw:
        for name, thing in things.items():
            draw(thing, options.draw / name)
        return
    masks: list[np.ndarray] = []
    results = {
        name: measure(options.scenes / name, thing, options.model, options.size, masks)
        for name, thing in things.items()
    }
    if options.picture:
        cv2.imwrite(str(options.picture), np.concatenate(masks, 1))
    print(json.dumps(results, indent=2) if options.json else table(results))  # noqa: T201


def table(results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Format results by scene and method: IoU of each scene, and the means of all three numbers."""
    ways = list(next(iter(results.values())))
    head = ["", *(f"`{name}`" for name in results), "IoU", "accuracy", "mAP"]
    rows = []
    for way in ways:
        of_way = [result[way] for result in results.values()]
        means = [sum(row[key] for row in of_way) / len(of_way) for key in ("iou", "accuracy", "map")]
        rows.append([f"`{way}`", *(f"{row['iou']:.2f}" for row in of_way), *(f"{mean:.2f}" for mean in means)])
    return measuring.table(head, rows)


if __name__ == "__main__":
    measuring.run(main)
