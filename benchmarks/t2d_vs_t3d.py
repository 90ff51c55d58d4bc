"""A 2D model on every frame against lifting it: `python benchmarks/t2d_vs_t3d.py`, after Lift3D's appendix B.

The formula and its terms are those of `Cost` in `lift3d_cli.evaluation.cost`. Measured here are

- t_enc: the model's encoder, on a photo or frame, which have the same size here;
- t_rend: the colours of a frame, from photos in memory. The paper's network renders features at no extra cost;
- t_lift: what the features of one model add to that: their gather, correction and descriptors, and their rays' share of
    the sampling and of Stage II, by the clocks of `frame_steps.py`. Noise would hide the difference of two frames;
- t_dec: the model's decoder, on a frame.

And t_feat, the features alone where a frame's colours exist already: Stage I and the rays are computed again.

From the break-even M on, lifting is faster; it never is where t_lift exceeds t_enc.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import measuring
import torch
from frame_steps import Stopwatch

from lift3d_cli import load_scene
from lift3d_cli.config import RenderConfig
from lift3d_cli.errors import SceneError
from lift3d_cli.evaluation.cost import Cost
from lift3d_cli.evaluation.protocols import EncodedOnTheSpot
from lift3d_cli.machine.device import resolve_device
from lift3d_cli.models.base import DecodeContext, DecodeOptions, FeatureMap, RenderedView
from lift3d_cli.models.registry import find_model
from lift3d_cli.pipeline.lift import SceneLifter
from lift3d_cli.pipeline.renderers import make_renderer
from lift3d_cli.pipeline.workspace import ResizedWorkspace

EMBEDDED = ("tiny-colorizer:colorize", "tiny-superres:superres", "style:stylize")
MADE_UP = {
    "vit-s14": ("dinov2", "Dinov2", {"hidden_size": 384, "num_attention_heads": 6, "patch_size": 14}),
    "vit-b16": ("dino", "ViT", {"hidden_size": 768, "num_attention_heads": 12, "patch_size": 16}),
    "vit-l14": (
        "dinov2",
        "Dinov2",
        {"hidden_size": 1024, "num_attention_heads": 16, "patch_size": 14, "num_hidden_layers": 24},
    ),
}
"""Sizes of vision transformers with random weights, on which no time depends."""


OF_FEATURES = ("gather of features", "descriptors of the frame", "corrector")
OF_RAYS = ("sampling", "Stage II: looking", "Stage II: network")
"""Steps of a frame, of its features and of all its rays."""


def of_features(seconds: Mapping[str, float], pixels: int, cells: int) -> float:
    """Return the time that features on `cells` add to a frame of `pixels`, from the seconds of its steps."""
    share = 0 if cells == pixels else cells / (pixels + cells)  # with one cell per pixel they share the colours' rays
    return sum(seconds[name] for name in OF_FEATURES) + share * sum(seconds[name] for name in OF_RAYS)


def has_transformers() -> bool:
    """Return True if the models of `MADE_UP` can be made."""
    try:
        import transformers  # noqa: F401
    except ImportError:
        return False
    return True


def made_up(name: str, folder: Path) -> str:
    """Make a checkpoint of `MADE_UP`; return its reference for `--model`."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    family, network, sizes = MADE_UP[name]
    config = getattr(transformers, f"{network}Config")(**sizes, intermediate_size=4 * sizes["hidden_size"])
    settings = {"add_pooling_layer": False} if network == "ViT" else {}
    getattr(transformers, f"{network}Model")(config, **settings).save_pretrained(folder / name)
    return f"{family}:{folder / name}"


class NovelView:
    """One new view of a scene, at which models are compared.

    Args:
        scene: folder of the scene.
        height: height of photos and frames, in pixels; 0 for the photos' own.
        views: number of source photos.
        device: device for everything.
    """

    def __init__(self, scene: Path, height: int, views: int, device: str) -> None:
        self.device = resolve_device(device)
        self.photos = ResizedWorkspace(load_scene(scene), height, keep=4 * views)
        renderer = make_renderer(RenderConfig(), self.device)
        self._lifter = SceneLifter(self.photos, self.photos.points(), renderer, views, self.device)
        self.target = measuring.novel_pose(self.photos.scene, self.photos.camera(0).height)
        self.choice = self._lifter.choose(self.target)

    def costs(self, models: Mapping[str, tuple[str, str]], rounds: int) -> dict[str, tuple[Cost, float]]:
        """Return each model's medians, the second for t_feat; all take turns.

        Args:
            models: (reference, task) by name.
            rounds: rounds that count.
        """
        added: dict[str, list[float]] = {name: [] for name in models}
        runs = {"render": lambda: self._lifter.lift(self._lifter.plan(self.target, self.choice))}
        for name, (ref, task) in models.items():
            runs |= self._of_model(name, ref, task, added[name])
        runs = {name: torch.inference_mode()(run) for name, run in runs.items()}
        seconds = measuring.medians(runs, rounds, self.device)
        found = {}
        for name in models:
            encode, decode, features = (seconds[f"{part} {name}"] for part in ("encode", "decode", "features"))
            lift = statistics.median(added[name][-rounds:])
            found[name] = Cost(encode, seconds["render"], lift, decode), features
        return found

    def _of_model(self, name: str, ref: str, task: str, added: list[float]) -> dict[str, Callable[[], object]]:
        """Return the parts of a model to time. `lift` appends the time that the features add to `added`."""
        model = find_model(ref).load()
        source = {name: EncodedOnTheSpot(self.photos, model, self.device, 2 * len(self.choice.sources))}
        view = self._lifter.lift(self._lifter.plan(self.target, self.choice, source))
        features = FeatureMap(view.frame.features[name], view.grids[name])
        rendered = RenderedView(view.frame.image, view.frame.coverage)
        with torch.inference_mode():
            decoder = model.decoder(DecodeContext(task, DecodeOptions(), [features], _no_photo))

        def lift() -> None:
            stopwatch = Stopwatch(self.device)
            with stopwatch.watching(type(model)):
                self._lifter.lift(self._lifter.plan(self.target, self.choice, source))
            added.append(of_features(stopwatch.seconds, rendered.coverage.numel(), features.data[0].numel()))

        def features_alone() -> None:
            self._lifter.lift_features(self._lifter.plan(self.target, self.choice, source), rendered.image)

        return {
            f"lift {name}": lift,
            f"encode {name}": lambda: model.checked_encode(rendered.image),
            f"decode {name}": lambda: decoder(features, rendered),
            f"features {name}": features_alone,
        }


def _no_photo(name: str) -> Any:
    raise SceneError(f"{name}: tasks that need a photo are not measured here")


def markdown(found: Mapping[str, tuple[Cost, float]], frames: int, photos: int) -> str:
    """Format the table."""
    head = ["model", "t_enc, ms", "t_rend, ms", "t_lift, ms", "t_rend + t_lift, ms", "t_feat, ms", "t_dec, ms"]
    head += ["break-even M", f"2D model on {frames} frames, s", f"lifted from {photos} photos, s"]
    rows = []
    for name, (cost, features) in found.items():
        seconds = cost.encode, cost.render, cost.lift, cost.render + cost.lift, features, cost.decode
        times = [measuring.milliseconds(value) for value in seconds]
        totals = cost.on_frames(frames), cost.lifted(frames, photos)
        rows.append([name, *times, str(cost.break_even(photos) or "never"), *(f"{total:,.1f}" for total in totals)])
    return measuring.table(head, rows)


def draw(file: Path, found: Mapping[str, tuple[Cost, float]], photos: int) -> None:
    """Plot, by the number of frames, how many times as long the 2D model on each frame takes as lifting."""
    frames = [round(10 ** (i / 20)) for i in range(61)]
    with measuring.plot(
        file, xlabel="frames M", xscale="log", ylabel="time of 2D on every frame / time of lifting"
    ) as axes:
        for name, (cost, _) in found.items():
            axes.plot(frames, [cost.on_frames(m) / cost.lifted(m, photos) for m in frames], label=name)
        axes.axhline(1, color="gray", linewidth=0.8)
        axes.legend()


def main() -> None:
    """Measure and print the table."""
    options = measuring.parser(__doc__, rounds=5)
    options.add_argument("--scene", type=Path, default=measuring.SCENE)
    options.add_argument("--height", type=int, default=270, help="of photos and frames, in pixels [270]")
    options.add_argument("--views", type=int, default=RenderConfig.views, help="source photos of a frame [8]")
    options.add_argument(
        "--model",
        action="append",
        help=f"NAME:TASK, may be repeated. NAME may be {', '.join(MADE_UP)}: transformers of these sizes with random "
        f"weights. [{' '.join(EMBEDDED)}, and where transformers is installed vit-s14:features vit-b16:features]",
    )
    options.add_argument("--photos", type=int, help="N of the totals [as many as the scene has]")
    options.add_argument("--frames", type=int, default=100, help="M of the totals [100, as in the paper]")
    options = options.parse_args()
    wanted = options.model or [*EMBEDDED, *(["vit-s14:features", "vit-b16:features"] if has_transformers() else [])]
    bench = NovelView(options.scene, options.height, options.views, options.device)
    with tempfile.TemporaryDirectory() as folder:
        models = {}
        for name in wanted:
            ref, _, task = name.rpartition(":")
            models[name] = made_up(ref, Path(folder)) if ref in MADE_UP else ref, task
        found = bench.costs(models, options.rounds)
    photos = options.photos or bench.photos.num_photos
    if options.plot:
        draw(options.plot, found, photos)
    where = f"{bench.target.width} x {bench.target.height}, {len(bench.choice.sources)} source photos a frame"
    rows = {
        name: {**asdict(cost), "features": features, "break_even": cost.break_even(photos)}
        for name, (cost, features) in found.items()
    }
    result = {"size": where, "photos": photos, "frames": options.frames, "models": rows}
    measuring.report(options, result, f"{where}\n\n{markdown(found, options.frames, photos)}")


if __name__ == "__main__":
    measuring.run(main)
