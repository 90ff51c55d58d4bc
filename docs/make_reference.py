"""Write what the documents repeat from the code: `docs/cli.md`, and parts of other pages between their marks.

`make docs` runs it; `tests/docs/test_docs.py` fails where it was forgotten.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import typer.main
from torch import nn
from typer.testing import CliRunner

from lift3d_cli.cli.app import app
from lift3d_cli.lifting.network import Lift3DNetwork
from lift3d_cli.models.base import ModelSpec
from lift3d_cli.models.registry import BUILT_INS, find_model
from lift3d_cli.weights import read_manifest

ROOT = Path(__file__).resolve().parents[1]
CLI_PAGE = ROOT / "docs" / "cli.md"
README = ROOT / "README.md"
MODELS_PAGE = ROOT / "docs" / "models.md"
METHOD_PAGE = ROOT / "docs" / "how-it-works.md"
_PARTS_OF_NETWORK = {
    "pyramid": ("photo pyramid", "what Stage II sees of each photo"),
    "regularizer": ("Stage I, 3-D U-Net", "where along each ray the surface is"),
    "propagation": ("Surfaces, 2-D U-Net", "from which neighbour a cell of a photo's surface takes its depth"),
    "blending": ("Stage II", "which photo and sample to believe"),
    "corrector": ("inconsistency corrector", "how to change features that suit colours only"),
}
_HEAD = """# Command-line reference

What `lift3d COMMAND --help` says, written by `make docs`. How the commands work together: [pipeline.md](pipeline.md).
"""


def commands() -> list[str]:
    """Return the names of all commands, in the order of `lift3d --help`."""
    return list(typer.main.get_command(app).commands)


def cli_page() -> str:
    """Write the text of docs/cli.md."""
    sections = [_HEAD, _section([])]
    return "\n".join([*sections, *(_section([name]) for name in commands())])


def readme_page(text: str) -> str:
    """Generate parts of README.md again."""
    parts = {"models": _short_model_table(), "colorizer": _colorizer_facts(), "network": _network_facts()}
    return _with_parts(text, parts)


def models_page(text: str) -> str:
    """Generate the table of docs/models.md again."""
    return _with_parts(text, {"models": _model_table()})


def method_page(text: str) -> str:
    """docs/how-it-works.md with its table made anew."""
    return _with_parts(text, {"network": _network_table()})


def _with_parts(text: str, parts: dict[str, str]) -> str:
    for name, content in parts.items():
        mark = re.compile(rf"(<!-- {name}: made by `make docs` -->\n).*?(<!-- end -->)", re.DOTALL)
        if not mark.search(text):
            raise SystemExit(f"error: there is no mark for the part {name!r}")
        text = mark.sub(lambda found, new=content: found[1] + new + found[2], text)
    return text


def _section(words: list[str]) -> str:
    # A fixed width, and no colour: the page must not depend on who writes it.
    environment = {"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}
    out = CliRunner().invoke(app, [*words, "--help"], prog_name="lift3d", env=environment)
    if out.exit_code:
        raise SystemExit(f"error: lift3d {' '.join(words)} --help ends with {out.exit_code}")
    return f"## {' '.join(['lift3d', *words])}\n\n```text\n{out.output.strip()}\n```\n"


def _short_model_table() -> str:
    rows = ["| model | tasks | weights |", "|---|---|---|"]
    for name in BUILT_INS:
        spec = find_model(name).spec()
        tasks = ", ".join(f"`{task}`" for task in spec.tasks)
        rows.append(f"| `{name}`: {spec.summary} | {tasks} | {_where(name, spec)} |")
    return "\n".join(rows) + "\n"


def _model_table() -> str:
    rows = [
        "| model | stride | channels | licence of the weights | commercial use | size | from | revision |",
        "|---|--:|--:|---|---|--:|---|---|",
    ]
    manifest = read_manifest(ROOT / "weights")
    for name in BUILT_INS:
        spec, shipped = find_model(name).spec(), manifest.get(f"{name}.safetensors")
        num_bytes = shipped["bytes"] if shipped else spec.download_bytes
        size = f"{num_bytes / 1e6:,.1f} MB" if num_bytes else "–"
        given = (spec.stride, spec.channels) if spec.license != "unknown" else ("yours", "yours")
        licence = (spec.license, "free" if spec.commercial else "**no**")
        licence = ("–", "–") if spec.license == "unknown" else licence
        cells = (*given, *licence, size, _where(name, spec))
        rows.append(
            f"| `{name}` | {' | '.join(map(str, cells))} | {f'`{spec.revision[:8]}`' if spec.revision else '–'} |"
        )
    return "\n".join(rows) + "\n"


def _network_table() -> str:
    network = Lift3DNetwork()
    rows = ["| part | weights | what it decides |", "|---|--:|---|"]
    for name, part in network.named_children():
        title, decides = _PARTS_OF_NETWORK[name]
        rows.append(f"| {title} | {num_weights(part):,} | {decides} |")
    return "\n".join([*rows, f"| **all** | {num_weights(network):,} | |"]) + "\n"


def num_weights(network: nn.Module) -> int:
    """How many numbers a network learns."""
    return sum(parameter.numel() for parameter in network.parameters())


def _where(name: str, spec: ModelSpec) -> str:
    if spec.hub:
        return f"`{spec.hub}`"
    if spec.url:
        return f"[files]({spec.url})"
    return "with lift3d" if f"{name}.safetensors" in read_manifest(ROOT / "weights") else "–"


def _colorizer_facts() -> str:
    facts = read_manifest(ROOT / "weights")["tiny-colorizer.safetensors"]
    scores = facts["scores"]
    return (
        f"{facts['data']}.\n"
        f"Mean error of the colour on the held-out photos (distance in Lab's a and b): **{scores['ab_error']:.1f}**;\n"
        f"leaving them grey scores {scores['ab_error_of_no_colour']:.1f}. Its mean chroma is {scores['chroma']:.1f}, "
        f"that of the photos {scores['true_chroma']:.1f}.\n"
    )


def _network_facts() -> str:
    facts = read_manifest(ROOT / "weights")["lift3d.safetensors"]
    scores = [f"{name.removeprefix('psnr_')} {value:.1f}" for name, value in facts["scores"].items() if "psnr" in name]
    return f"{facts['data']}.\nIts PSNR on left-out photos of other scenes, in dB: {', '.join(scores)}.\n"


def main() -> None:
    """Rewrite the files and name those that changed."""
    pages = {
        CLI_PAGE: cli_page(),
        README: readme_page(README.read_text(encoding="utf-8")),
        MODELS_PAGE: models_page(MODELS_PAGE.read_text(encoding="utf-8")),
        METHOD_PAGE: method_page(METHOD_PAGE.read_text(encoding="utf-8")),
    }
    for path, text in pages.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            sys.stderr.write(f"{path.relative_to(ROOT)}: written\n")


if __name__ == "__main__":
    main()
