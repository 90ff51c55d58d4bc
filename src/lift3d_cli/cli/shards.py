"""The commands by which several processes share a render, on one machine or as jobs of any scheduler."""

from __future__ import annotations

import inspect
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import typer

from lift3d_cli.cli import console

# Those that are said for each command in its own way.
_LEFT_OUT = ("scene", "models", "shard", "print_commands", "dry_run")


def commands(command: Callable[..., None], given: Mapping[str, object], count: int, frames: int) -> list[str]:
    """Write lines for a shell, each with all that the command found in its environment and in the folder's note.

    Args:
        command: `lift3d render`.
        given: its arguments by name, with the scene and models that it found.
        count: how many; there are fewer where there are fewer frames.
        frames: how many frames they share.

    Raises:
        typer.BadParameter: if an argument belongs to one command only.
    """
    if given["shard"] or given["dry_run"]:
        raise typer.BadParameter("makes the parts itself: not with --shard or --dry-run", param_hint="--print-commands")
    if given["poses"] == "-":
        raise typer.BadParameter("needs poses in a file, not on standard input", param_hint="--print-commands")
    given = {**given, "cache": given["cache"] or os.environ.get("LIFT3D_CACHE")}
    flags = {"--quiet": console.quiet, "--debug": console.debug}
    words = [*_this_program(), "render", *(flag for flag, is_set in flags.items() if is_set), str(given["scene"])]
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
    if count > frames:
        console.note(f"{frames} commands instead of {count}: there are no more frames")
    parts = min(count, frames)
    return [f"{line} --shard {part}/{parts}" for part in range(1, parts + 1)]


def _this_program() -> list[str]:
    """Return the words that run this lift3d: a job may have another PATH, without the environment that has it."""
    script = os.path.abspath(sys.argv[0])
    if Path(script).stem == "lift3d" and os.access(script, os.X_OK):
        return [script]
    return [sys.executable, "-m", "lift3d_cli"]
