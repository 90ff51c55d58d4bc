"""The command line: one typer app, and the one place where errors become lines and exit codes.

Nothing here or in the command files imports torch, numpy or rich at the top: `lift3d --help` must be fast.
"""

from __future__ import annotations

import errno
import os
import re
from typing import Annotated

import typer
from typer.core import TyperCommand, TyperGroup

import lift3d_cli
from lift3d_cli.cli import (
    ablate,
    cache,
    console,
    decode,
    doctor,
    encode,
    evaluate,
    info,
    models,
    path,
    render,
    report,
    train,
    tune,
)
from lift3d_cli.errors import Lift3dError, ResourceError
from lift3d_cli.machine.interrupts import received

_BUG = "this is a bug in lift3d: please report it with the lines above"
_FLAGS = {"-q": "quiet", "--quiet": "quiet", "--debug": "debug"}


class ErrorBoundary(TyperGroup):
    """Turns an exception of a command into one line on standard error and the error's exit code."""

    def make_context(self, *args: object, **kwargs: object) -> typer.Context:
        try:
            return super().make_context(*args, **kwargs)
        except Exception as error:
            _escape_usage_error(error)
            raise

    def invoke(self, ctx: typer.Context) -> object:
        try:
            result = super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise _interrupted(ctx, error) from error
        except (typer.Exit, typer.Abort, BrokenPipeError):  # RuntimeErrors, two of them; typer ends in silence on all
            raise
        except Exception as error:
            interrupt = received()
            if interrupt is not None:
                raise _interrupted(ctx, interrupt) from error
            if _escape_usage_error(error):
                raise
            known = error if isinstance(error, Lift3dError) else _as_resource_error(error)
            raise (_exit(known) if known else _bug(error)) from error
        interrupt = received()
        if interrupt is not None:  # taken for a model's error, say, and listed as one
            raise _interrupted(ctx, interrupt)
        return result


class Command(TyperCommand):
    """A command that takes --quiet and --debug behind its name too.

    Its standard output is its own; its help, which typer prints, comes before.
    """

    def invoke(self, ctx: object) -> object:
        with console.own_streams():
            return super().invoke(ctx)

    def parse_args(self, ctx: object, args: list[str]) -> list[str]:
        with_value = {name for param in self.params if not getattr(param, "is_flag", True) for name in param.opts}
        end = args.index("--") if "--" in args else len(args)
        rest = []
        for before, word in zip(["", *args], args[:end], strict=False):
            if before in with_value or word not in _FLAGS:
                rest.append(word)
            else:
                setattr(console, _FLAGS[word], True)
        return super().parse_args(ctx, rest + args[end:])


# Commands that go on where they were.
_RESUMABLE = ("encode", "render", "train", "tune")


def interruption(command: str | None) -> str:
    """Say in a line what an interrupted command leaves."""
    from lift3d_cli.machine.atomic import has_written

    if not has_written():
        return "interrupted: nothing was written yet"
    if command in _RESUMABLE:
        return "interrupted: what was done is kept, the same command goes on from there"
    return "interrupted: files that were finished stay, the same command writes them again"


def _escape_usage_error(error: Exception) -> bool:
    """Tell if an error is one of typer's own, which it prints itself; what the user typed must not steer the terminal.

    Until typer 0.25 they were those of the package click.
    """
    if type(error).__module__.split(".")[0] not in ("typer", "click"):
        return False
    if hasattr(error, "format_message"):
        text = console.escaped(_with_guess(" ".join(error.format_message().split())))
        error.format_message = lambda: text
    return True


def _with_guess(text: str) -> str:
    """Add what was probably meant to a message about a value that is none of its choices."""
    import difflib

    text = text.replace("Value error, ", "", 1)  # of the library that checks typer's arguments
    match = re.search(r"'([^']*)' is not one of ('.*')\.?$", text)
    near = match and difflib.get_close_matches(match[1], re.findall(r"'([^']*)'", match[2]), n=1)
    return f"{text.removesuffix('.')}. Did you mean '{near[0]}'?" if near else text


def _interrupted(ctx: typer.Context, error: KeyboardInterrupt) -> typer.Exit:
    console.line(interruption(ctx.invoked_subcommand))
    return typer.Exit(getattr(error, "exit_code", 130))


def _bug(error: BaseException) -> typer.Exit:
    console.trace(error)
    console.line(_BUG)
    return typer.Exit(1)


def _exit(error: Lift3dError) -> typer.Exit:
    console.line(f"error: {error}")
    if console.debug:
        console.trace(error)
    return typer.Exit(error.exit_code)


def _as_resource_error(error: BaseException) -> ResourceError | None:
    """Convert errors of memory, disk space or a folder that was removed; None for anything else."""
    text = str(error)
    # torch.OutOfMemoryError, by name so that torch is not imported for it; on CPU it is a RuntimeError with this text.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text:
        return ResourceError("out of memory. hint: smaller --memory, --views or --max-size")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError(f"{error.filename or 'disk'}: no space left. hint: free some, or --cache DIR elsewhere")
    if isinstance(error, FileNotFoundError):
        try:
            os.getcwd()
        except FileNotFoundError:
            return ResourceError("the current folder is no longer there. hint: cd to one that is")
    return None


app = typer.Typer(
    cls=ErrorBoundary,
    name="lift3d",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Plain help: rich would take longer to import than everything else here.
    rich_markup_mode=None,
    help="Make any 2D vision model 3D-consistent: encode posed photos once, render the model's features at new camera "
    "poses, decode them with the model's own decoder.",
    epilog="In one folder, each step finds the scene and render of the one before: lift3d encode scene/ ; lift3d path "
    "scene/ orbit ; lift3d render --poses path.json ; lift3d decode --task colorize",
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"lift3d {lift3d_cli.__version__}")
        raise typer.Exit


@app.callback()
def options(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, messages or warnings.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    console.quiet, console.debug = quiet, debug


for _command in (
    encode.encode,
    path.path,
    render.render,
    decode.decode,
    info.info,
    cache.cache,
    doctor.doctor,
    models.models,
    evaluate.evaluate,
    ablate.ablate,
    report.report,
    train.train,
    tune.tune,
):
    app.command("eval" if _command is evaluate.evaluate else None, cls=Command)(_command)
