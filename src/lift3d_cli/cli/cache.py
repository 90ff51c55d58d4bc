"""lift3d cache."""

from __future__ import annotations

import time
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lift3d_cli.cli import completion, console, inputs, options
from lift3d_cli.errors import CacheError
from lift3d_cli.machine.wording import counted

if TYPE_CHECKING:
    from lift3d_cli.cache.inventory import Holding

_DAY_S = 24 * 3600


class Action(str, Enum):
    """What to do with a cache."""

    list = "list"
    verify = "verify"
    prune = "prune"


def cache(
    action: Annotated[
        Action,
        typer.Argument(
            help="list: what is there, how large, how old, made by what. verify: read all of it, and name what is "
            "damaged. prune: say what --older-than, --to-size and --model choose, and with --delete remove it."
        ),
    ],
    scene: Annotated[
        Path | None, typer.Argument(help="The scene; without it, that of the last command in this folder.")
    ] = None,
    older_than: Annotated[float | None, typer.Option(help="prune: what was last used so many days ago.", min=0)] = None,
    to_size: Annotated[
        str, typer.Option(help="prune: the longest unused, until only so much is left, such as 2GiB.")
    ] = "",
    model: Annotated[
        str,
        typer.Option(help="prune: this model's features of the photos.", autocompletion=completion.encoded_models),
    ] = "",
    delete: Annotated[bool, typer.Option("--delete", help="prune: do it, instead of only saying it.")] = False,
    cache: options.CacheOption = None,
    json: options.JsonTables = False,
) -> None:
    """List, check or prune what is kept of a scene.

    Features and renders are made again when they are needed; nothing else may be using the cache while it is pruned.

    Example: lift3d cache prune scene/ --older-than 30 --delete
    """
    criteria = {"--older-than": older_than is not None, "--to-size": bool(to_size), "--model": bool(model)}
    for name, is_given in (*criteria.items(), ("--delete", delete)):
        if is_given and action is not Action.prune:
            raise typer.BadParameter(f"is for prune, not for {action.value}", param_hint=name)
    if action is Action.prune and not any(criteria.values()):
        raise typer.BadParameter("needs one of --older-than, --to-size, --model", param_hint="prune")
    scene, cache = inputs.recalled_scene(scene, cache)
    root = inputs.open_cache(inputs.open_scene(scene), cache).root
    from lift3d_cli.cache.inventory import inventory, made_with, remove, to_prune

    if action is Action.verify:
        _verify(root, json)
        return
    holdings = inventory(root)
    if model and not any(made_with(h, model) for h in holdings):
        raise CacheError(f"{root}: has no features of {model}. hint: lift3d cache list says what is there")
    if action is Action.list:
        _show(holdings, root, json)
        return
    from lift3d_cli.machine.device import parse_bytes

    age = None if older_than is None else older_than * _DAY_S
    chosen = to_prune(holdings, time.time(), age, parse_bytes(to_size, "--to-size") if to_size else None, model)
    if delete:
        remove(chosen)
    _show(chosen, root, json)
    total = console.human_bytes(sum(h.num_bytes for h in chosen))
    console.say(f"removed {total}" if delete else f"would remove {total}: --delete does it")


def _show(holdings: list[Holding], root: Path, json: bool) -> None:
    rows = [{**_facts(h), "path": str(h.path)} for h in holdings]
    if json:
        console.as_json({"path": str(root), "bytes": sum(h.num_bytes for h in holdings), "holdings": rows})
        return
    lines = [f"{root}, {console.human_bytes(sum(h.num_bytes for h in holdings))}"]
    for row in rows:
        problem = f"  cannot be used: {row['problem']}" if row["problem"] else ""
        size, age = console.human_bytes(row["bytes"]), console.human_time(row["age_seconds"])
        files = counted(row["files"], "file")
        what = f"{row['kind']:9} {row['name']:36} {files:>11} {size:>9} {age:>8} ago"
        lines.append(f"  {what}  {row['made_by']}{problem}".rstrip())
    console.text("\n".join(lines))


def _facts(holding: Holding) -> dict[str, object]:
    return {
        "kind": holding.kind,
        "name": holding.path.name,
        "files": holding.num_files,
        "bytes": holding.num_bytes,
        "age_seconds": max(0.0, time.time() - holding.last_used),
        "made_by": made_by(holding),
        "problem": holding.problem,
    }


def made_by(holding: Holding) -> str:
    """Say in a few words what made a holding, as far as it is recorded."""
    from lift3d_cli.cache.renders import Render
    from lift3d_cli.pipeline.encoders import encode_options

    if holding.encoder is not None:
        return f"encode {encode_options(holding.encoder)}"
    if holding.kind != "render":
        return "tune" if holding.kind == "tuned" else ""
    try:
        render = Render.open(holding.path)
        models = ", ".join(dict.fromkeys(r.model for r in render.feature_renders()))
    except CacheError:
        return ""
    return f"render of {counted(render.num_frames, 'pose')}{f', {models}' if models else ', colour only'}"


def _verify(root: Path, json: bool) -> None:
    from lift3d_cli.cache.verify import verify

    damaged = verify(root, console.progress)
    if json:
        console.as_json({"path": str(root), "damaged": [{"path": str(p), "problem": why} for p, why in damaged]})
    else:
        console.text("\n".join(f"{path}: {why}" for path, why in damaged) or f"{root}: all files are whole")
    if damaged:
        raise CacheError(
            f"{root}: {counted(len(damaged), 'damaged file')}. hint: delete them; encode and render make them again"
        )
