"""Options that several commands share, and finding the scene they are about."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lift3d_cli.cli import console
from lift3d_cli.errors import SceneError

if TYPE_CHECKING:
    from lift3d_cli.cache.store import SceneCache
    from lift3d_cli.scene.scene import Scene

Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.", envvar="LIFT3D_DEVICE")]
Dtype = Annotated[str, typer.Option(help="What features are stored as: fp16, bf16 or fp32.")]
Seed = Annotated[int, typer.Option(help="For models that draw random numbers.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of paths.")]
Weights = Annotated[
    str, typer.Option(help="Rendering network: a file or a Hugging Face repository. [the one that ships]")
]
Precision = Annotated[
    str, typer.Option(help="Of the rendering network: bf16, fp32, or auto for bf16 where the processor has it.")
]
Memory = Annotated[str, typer.Option(help="Bound on what a pose takes, such as 2GiB; auto is half of what is free.")]
CacheOption = Annotated[
    Path | None,
    typer.Option("--cache", help="Folder for the caches of all scenes, instead of SCENE/.lift3d. Also: LIFT3D_CACHE."),
]
SceneArgument = Annotated[Path, typer.Argument(help="Folder with photos and their poses, or its transforms.json.")]


def open_scene(path: Path) -> Scene:
    """Load a scene and pass its warnings on."""
    from lift3d_cli.scene.load import load_scene

    scene = load_scene(path)
    for warning in scene.warnings:
        console.warn(warning)
    return scene


def open_cache(scene: Scene, option: Path | None) -> SceneCache:
    """The scene's cache."""
    from lift3d_cli.cache.location import cache_dir
    from lift3d_cli.cache.store import SceneCache

    location = cache_dir(scene.root, option)
    if location.note:
        console.say(location.note)
    return SceneCache(location.path, str(scene.root))


def recalled_scene(scene: Path | None, cache: Path | None) -> tuple[Path, Path | None]:
    """The scene named, or else the one of the command before in this folder; and its `--cache`.

    Raises:
        SceneError: if there is neither.
    """
    from lift3d_cli.cache.session import recall

    if scene is not None:
        return scene, cache
    session = recall()
    if session is None:
        raise SceneError("no scene named, and none used in this folder before. hint: lift3d encode SCENE")
    recalled = session.require_scene()
    here = Path.cwd()  # results are named as if the scene had been: relative where that is short
    recalled = recalled.relative_to(here) if recalled.is_relative_to(here) else recalled
    return recalled, cache or session.cache


def check_dtype(dtype: str) -> None:
    """Refuse an unknown dtype as a usage error."""
    from lift3d_cli.cache.format import DTYPES

    if dtype not in DTYPES:
        raise typer.BadParameter(f"{dtype!r} is not one of {', '.join(DTYPES)}", param_hint="--dtype")
