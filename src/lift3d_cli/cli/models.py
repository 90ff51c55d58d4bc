"""lift3d models."""

from __future__ import annotations

from typing import Annotated

import typer

from lift3d_cli.cli import console, options
from lift3d_cli.errors import Lift3dError

_LINE = "{:17} {:24} {:>6} {:>8}  {:20} {:10} {}"


def models(
    name: Annotated[str | None, typer.Argument(help="Say all of one model.")] = None,
    commercial: Annotated[
        bool, typer.Option("--commercial", help="Only those whose weights may be used commercially, for free.")
    ] = False,
    json: options.Json = False,
) -> None:
    """List the 2D models that can be lifted."""
    from lift3d_cli.models.registry import find_model, list_models

    rows = [_facts(ref) for ref in ([find_model(name)] if name else list_models())]
    rows = [row for row in rows if row.get("commercial") or not commercial]
    if json:
        console.as_json(rows)
        return
    if name and rows:
        facts = {key: ", ".join(value) if key == "tasks" else value for key, value in rows[0].items()}
        console.text("\n".join(f"{key:10} {value}" for key, value in facts.items() if value not in ("", None)))
        return
    lines = [_LINE.format("model", "tasks", "stride", "channels", "licence", "commercial", "weights")]
    for row in rows:
        if row["problem"]:
            lines.append(f"{row['name']:18}cannot be used: {row['problem']}")
        else:
            allowed = "-" if row["license"] == "unknown" else "yes" if row["commercial"] else "no"
            facts = (row["stride"], row["channels"], row["license"], allowed, row["weights"])
            lines.append(_LINE.format(row["name"], ",".join(row["tasks"]), *facts).rstrip())
    console.text("\n".join(lines))


def _facts(ref) -> dict[str, object]:
    """Return the facts of a model, without loading its weights."""
    facts: dict[str, object] = {"name": ref.name, "origin": ref.origin, "ref": ref.ref, "problem": ref.problem}
    if not ref.problem:
        from dataclasses import asdict

        try:
            # A checkpoint may have other channels or tasks than the default one.
            spec = ref.load().spec if ref.settings else ref.spec()
            facts = {
                **asdict(spec),
                "commercial": spec.commercial,
                **facts,
                "weights": ref.settings.get("checkpoint") or _weights(spec),
            }
        except Lift3dError as error:
            facts["problem"] = str(error)
    return facts


def _weights(spec) -> str:
    """Say whether a model's weights are on this machine, or else where they come from."""
    from lift3d_cli.models.pretrained import is_here
    from lift3d_cli.weights import WEIGHT_FOLDERS

    if is_here(spec):
        files = [folder / f"{spec.name}.safetensors" for folder in WEIGHT_FOLDERS]
        num_bytes = spec.download_bytes or next((file.stat().st_size for file in files if file.is_file()), 0)
        return f"here, {num_bytes / 1e6:.1f} MB" if num_bytes else "-"
    size = f"{spec.download_bytes / 1e6:.0f} MB " if spec.download_bytes else ""
    return f"{size}of {spec.hub or spec.url}"
