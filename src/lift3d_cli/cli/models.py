"""lift3d models."""

from __future__ import annotations

from typing import Annotated

import typer

from lift3d_cli.cli import console, options
from lift3d_cli.errors import Lift3dError

_LINE = "{:18}{:14}{:>7}{:>9}  {:12}{}"


def models(
    name: Annotated[str | None, typer.Argument(help="Say all of one model.")] = None,
    json: options.Json = False,
) -> None:
    """List the 2D models that can be lifted."""
    from lift3d_cli.registry import find_model, list_models

    rows = [_facts(ref) for ref in ([find_model(name)] if name else list_models())]
    if json:
        console.as_json(rows)
        return
    if name:
        facts = {key: ", ".join(value) if key == "tasks" else value for key, value in rows[0].items()}
        console.text("\n".join(f"{key:10} {value}" for key, value in facts.items() if value not in ("", None)))
        return
    lines = [_LINE.format("model", "tasks", "stride", "channels", "licence", "from")]
    for row in rows:
        if row["problem"]:
            lines.append(f"{row['name']:18}cannot be used: {row['problem']}")
        else:
            facts = (row[key] for key in ("stride", "channels", "license", "origin"))
            lines.append(_LINE.format(row["name"], ",".join(row["tasks"]), *facts).rstrip())
    console.text("\n".join(lines))


def _facts(ref) -> dict[str, object]:
    """What is known of a model, without loading its weights."""
    facts: dict[str, object] = {"name": ref.name, "origin": ref.origin, "ref": ref.ref, "problem": ref.problem}
    if not ref.problem:
        from dataclasses import asdict

        try:
            facts = {**asdict(ref.spec()), **facts}
        except Lift3dError as error:
            facts["problem"] = str(error)
    return facts
