"""The commands by which several processes share a render, on one machine or as jobs of any scheduler."""

from __future__ import annotations

import inspect
import os
import shlex
from collections.abc import Callable, Mapping

import typer

# Those that are said for each command in its own way.
_LEFT_OUT = ("scene", "models", "shard", "print_commands", "dry_run")


def commands(command: Callable[..., None], given: Mapping[str, object], count: int) -> list[str]:
    """Write lines for a shell, each with all that the command found in its environment and in the folder's note.

    Args:
        command: `lift3d render`.
        given: its arguments by name, with the scene and models that it found.
        count: how many.

    Raises:
        typer.BadParameter: if an argument belongs to one command only.
    """
    if given["shard"] or given["dry_run"]:
        raise typer.BadParameter("makes the parts itself: not with --shard or --dry-run", param_hint="--print-commands")
    if given["poses"] == "-":
        raise typer.BadParameter("needs poses in a file, not on standard input", param_hint="--print-commands")
    given = {**given, "cache": given["cache"] or os.environ.get("LIFT3D_CACHE")}
    words = ["lift3d", "render", str(given["scene"])]
    for model in given["models"]:
        words += ["--model", model]
    for name, parameter in inspect.signature(command).parameters.items():
        value, option = given[name], f"--{name.replace('_', '-')}"
        if name in _LEFT_OUT or value == parameter.default:
            continue
        if isinstance(value, bool):
            words.append(option if value else option.replace("--", "--no-", 1))
        else:
            words += [option, str(value)]
    # Relative paths are right in this folder only: of files, models, weights.
    line = f"cd {shlex.quote(os.getcwd())} && {shlex.join(words)}"
    return [f"{line} --shard {part}/{count}" for part in range(1, count + 1)]
