"""lift3d eval."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from lift3d_cli.cli import console, inputs, options
from lift3d_cli.cli.tune import reporter
from lift3d_cli.config import VARIANTS, EvalConfig, TuneConfig
from lift3d_cli.errors import Lift3dError, SceneError

if TYPE_CHECKING:
    from lift3d_cli.scene.scene import Scene

Variant = options.choices("Variant", VARIANTS)


def evaluate(
    scene: options.OptionalSceneArgument = None,
    scenes: Annotated[Path | None, typer.Option(help="Instead: a folder of scenes, for all of them and means.")] = None,
    every: options.Every = EvalConfig.every,
    height: options.Height = EvalConfig.height,
    views: options.HeldOutViews = EvalConfig.views,
    model: Annotated[
        list[str] | None, typer.Option(help="Also compare lifted features of this 2D model; several with --suite.")
    ] = None,
    save: Annotated[
        Path | None,
        options.output_option(
            "Folder for pictures: photo, render and depth side by side; of several scenes, one in it for each.",
            "--save",
        ),
    ] = None,
    device: options.Device = EvalConfig.device,
    memory: options.Memory = EvalConfig.memory,
    weights: options.Weights = EvalConfig.weights,
    variant: Annotated[
        Variant, typer.Option(help="full, or with a part left out: see docs/evaluation.md.")
    ] = EvalConfig.variant,
    lpips: Annotated[
        str,
        typer.Option(help="Also LPIPS, by these weights: a file, or a Hugging Face repository.", envvar="LIFT3D_LPIPS"),
    ] = EvalConfig.lpips,
    consistency: Annotated[
        bool, typer.Option("--consistency", help="Also compare decoded frames of --model with those nearby and far.")
    ] = False,
    segmentation: Annotated[
        bool, typer.Option("--segmentation", help="Also segment by --model's features, lifted from 3, 6, 10 photos.")
    ] = False,
    cost: Annotated[bool, typer.Option("--cost", help="Also time the parts of a frame with --model.")] = False,
    suite: Annotated[
        bool, typer.Option("--suite", help="All of these and `lift3d ablate`, as one Markdown document.")
    ] = False,
    task: Annotated[
        str, typer.Option(help="What --consistency and --cost decode to. [the model's first]")
    ] = EvalConfig.task,
    text: Annotated[
        list[str] | None, typer.Option(help="What to segment, for models that know words; may be repeated.")
    ] = None,
    strokes: Annotated[
        Path | None, typer.Option(help="What to segment: a picture with a colour painted on each class.")
    ] = EvalConfig.strokes,
    view: Annotated[str, typer.Option(help="Photo that --strokes is painted on.")] = EvalConfig.view,
    clusters: Annotated[
        int, typer.Option(help="Number of classes to segment without --text or --strokes.")
    ] = EvalConfig.clusters,
    masks: Annotated[
        Path | None, typer.Option(help="Folder of masks of left-out photos, PHOTO.png: white on the thing.")
    ] = EvalConfig.masks,
    style: Annotated[Path | None, typer.Option(help="Picture whose style to take.")] = EvalConfig.style,
    edit_text: Annotated[
        tuple[str, str] | None, typer.Option(help="Captions before and after an edit, for --consistency.")
    ] = EvalConfig.edit_text,
    depth: options.DepthFolder = None,
    mesh: options.Mesh = None,
    check: options.Check = True,
    clip: Annotated[str, typer.Option(help="CLIP model that --edit-text is judged by.")] = EvalConfig.clip,
    tuned: Annotated[
        float,
        typer.Option(
            metavar="MINUTES",
            min=0,
            help="Tune the network to each scene first, for so long, by the photos that are not left out.",
        ),
    ] = EvalConfig.tuned,
    json: options.JsonTables = False,
) -> None:
    """Measure quality on left-out photos.

    Each is rendered from the others and compared.

    Example: lift3d eval scene/ --every 8 --height 320 --views 8 --json
    """
    models = model or []
    config = options.config_of(EvalConfig, locals() | {"model": next(iter(models), "")})
    parts = {"consistency": consistency, "segmentation": segmentation, "cost": cost, "suite": suite}
    wanted = [part for part, is_wanted in parts.items() if is_wanted]
    if wanted and not models:
        raise typer.BadParameter("needs --model, whose features it is about", param_hint=f"--{wanted[0]}")
    for option, given in {"--text": text, "--strokes": strokes, "--masks": masks, "--edit-text": edit_text}.items():
        part = "consistency" if option == "--edit-text" else "segmentation"
        if given and not parts[part] and not suite:
            raise typer.BadParameter(f"is for --{part}", param_hint=option)
    if tuned and (suite or variant in ("single-stage", "training-free")):
        raise typer.BadParameter("not with --suite, nor where the network is another or none", param_hint="--tuned")
    if len(models) > 1 and not suite:
        raise typer.BadParameter("one at a time; several with --suite", param_hint="--model")
    if (scene is None) == (scenes is None):
        raise typer.BadParameter("one, or --scenes with a folder of several", param_hint="SCENE")
    if scenes is not None and (depth or mesh):
        raise typer.BadParameter("is of one scene", param_hint="--depth" if depth else "--mesh")

    def run(path: Path) -> dict[str, object]:
        opened = inputs.check_scene(inputs.open_scene(path, depth, mesh), None, check)
        if suite:
            return _suite(config, models, opened)
        # Photos of two scenes may have one name.
        return _protocols(config, wanted, save / path.name if save and scenes else save, opened)

    if scene is not None:
        _show(run(scene), suite, json)
        return
    from lift3d_cli.evaluation.suite import over_scenes

    results, failed = _each(scenes, run)
    if results or json:
        _show(over_scenes(results) | {"failed": {name: str(e) for name, e in failed.items()}}, suite, json)
    if failed:
        raise typer.Exit(next(iter(failed.values())).exit_code)


def _protocols(config: EvalConfig, parts: Sequence[str], save: Path | None, scene: Scene) -> dict[str, object]:
    """Run the requested protocols on one scene."""
    from lift3d_cli.evaluation.consistency import measure_consistency
    from lift3d_cli.evaluation.cost import measure_cost
    from lift3d_cli.evaluation.protocols import evaluate as run
    from lift3d_cli.evaluation.segmentation import measure_segmentation
    from lift3d_cli.pipeline.held_out import HeldOutPhotos

    photos = HeldOutPhotos(scene, config.height, config.every, config.views)
    inputs.warn_of_depth(photos)
    with _tuned(config, scene, photos.held_out) as (config, tuning):
        result = run(scene, config, console.progress, photos, save)
        measures = {"consistency": measure_consistency, "segmentation": measure_segmentation, "cost": measure_cost}
        parts_of_it = {part: measures[part](scene, config, console.progress, photos) for part in parts}
        return result | parts_of_it | tuning


@contextmanager
def _tuned(config: EvalConfig, scene: Scene, held_out: Sequence[int]) -> Iterator[tuple[EvalConfig, dict[str, object]]]:
    """Yield the settings, with weights tuned to the photos that are not left out if so asked, and the outcome."""
    if not config.tuned:
        yield config, {}
        return
    from lift3d_cli.training.tune import tune_without

    settings = TuneConfig(config.tuned, config.weights, config.height, device=config.device)
    with TemporaryDirectory(prefix="lift3d-tune-") as folder:
        report = reporter(config.tuned)
        weights, outcome = tune_without(scene, held_out, settings, Path(folder), report, console.progress)
        yield replace(config, weights=weights), {"tuned": asdict(outcome)}


def _suite(config: EvalConfig, models: Sequence[str], scene: Scene) -> dict[str, object]:
    """Run all protocols on one scene."""
    from lift3d_cli.evaluation.suite import measure_suite
    from lift3d_cli.pipeline.held_out import HeldOutPhotos

    inputs.warn_of_depth(HeldOutPhotos(scene, config.height, config.every, config.views))
    return measure_suite(scene, config, models, console.progress)


def _each(
    folder: Path, run: Callable[[Path], dict[str, object]]
) -> tuple[list[dict[str, object]], dict[str, Lift3dError]]:
    """Return the results of all scenes of a folder, and the errors of scenes that cannot be measured, by name.

    Raises:
        SceneError: if the folder has no folders.
    """
    from lift3d_cli.scene.photo_files import natural_key

    paths = [path for path in folder.glob("*") if path.is_dir() and path.name[0] != "."]
    paths.sort(key=lambda path: natural_key(path.name))
    if not paths:
        raise SceneError(f"{folder}: has no folders of scenes. hint: --scenes FOLDER, where FOLDER/SCENE is a scene")
    results, failed = [], {}
    for path in paths:
        try:
            results.append(run(path))
        except Lift3dError as e:
            console.line(f"error: {path.name}: {e}")
            failed[path.name] = e
    return results, failed


def _show(result: dict[str, object], is_suite: bool, as_json: bool) -> None:
    """Print the result of one scene, or of several together."""
    if as_json:
        console.as_json(result)
        return
    if is_suite:
        from lift3d_cli.evaluation.suite import as_markdown

        console.text(as_markdown(result.get("scenes", [result])))
        return
    keys = list(result["mean"])
    lines = [f"{'photo' if 'scene' in result else 'scene':32}" + "".join(f"{key:>22}" for key in keys)]
    for row in [*result["views"], {"name": "mean", **result["mean"]}]:
        lines.append(f"{row['name']:32}" + "".join(f"{_number(row.get(key)):>22}" for key in keys))
    lines += [_line_of_tuning(each) for each in result.get("scenes", [result]) if "tuned" in each]
    lines += [f"{what}: not measured ({why})" for what, why in result["not_measured"].items()]
    rows = {f"segmentation {way}": row for way, row in result.get("segmentation", {}).items()}
    rows |= {"cost": result["cost"]} if "cost" in result else {}
    for pair, methods in result.get("consistency", {}).items():
        rows |= {f"{pair:6}{method}": row for method, row in methods.items()}
    for name, row in rows.items():
        lines.append(f"{name:32}" + "".join(f"{f'{key} {_number(value)}':>30}" for key, value in row.items()))
    console.text("\n".join(lines))


def _line_of_tuning(result: dict[str, object]) -> str:
    """Format the outcome of tuning to a scene."""
    tuned = result["tuned"]
    change = f"photos kept back {tuned['psnr_before']:.2f} dB before, {tuned['psnr']:.2f} dB after"
    return f"tuned to {result['scene']}: {tuned['minutes']:.1f} minutes on {tuned['num_photos']} photos; {change}"


def _number(value: float | None) -> str:
    return "never" if value is None else str(value) if isinstance(value, int) else f"{value:.4f}"
