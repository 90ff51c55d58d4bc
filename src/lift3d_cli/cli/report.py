"""lift3d report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lift3d_cli.cli import console, inputs, options
from lift3d_cli.config import ReportConfig


def report(
    render: options.RenderArgument = None,
    decoded: Annotated[Path | None, typer.Option(help="Folder of the results of decode. [lift3d-out/RENDER]")] = None,
    metrics: Annotated[
        list[Path] | None, typer.Option(help="File with the result of lift3d eval --json; may be repeated.")
    ] = None,
    output: Annotated[Path | None, options.output_option("The file to write. [lift3d-out/RENDER/report.html]")] = None,
    compare_2d: Annotated[
        bool, typer.Option(help="Also run the 2D model on each shown frame.")
    ] = ReportConfig.compare_2d,
    frames: Annotated[
        int, typer.Option(help="Of the path to show, at most; evenly spread.", min=1)
    ] = ReportConfig.frames,
    public: Annotated[
        bool, typer.Option("--public", help="To be mailed: without names of photos, commands and versions.")
    ] = ReportConfig.public,
    device: options.Device = ReportConfig.device,
    memory: options.Memory = ReportConfig.memory,
    weights: options.Weights = ReportConfig.weights,
    cache: options.CacheOption = None,
    json: options.Json = False,
) -> None:
    """Show a render and what was decoded of it as one HTML file.

    It needs nothing else: pictures and videos are in it, and nothing is loaded from anywhere. Prints its path.

    Example: lift3d report --metrics metrics.json
    """
    config = options.config_of(ReportConfig, locals())
    folder = inputs.find_render(render, cache)
    from lift3d_cli.cache.renders import Render
    from lift3d_cli.machine.atomic import write_output
    from lift3d_cli.report.collect import ReportedRender, default_results
    from lift3d_cli.report.page import make_report

    workspace = inputs.open_workspace(Render.open(folder).scene, folder, cache)
    results = decoded or default_results(folder)
    page = make_report(ReportedRender(folder, workspace, results, frames), config, console.progress)
    file = output or default_results(folder) / "report.html"
    write_output(file, page.encode())
    if json:
        console.as_json({"report": str(file), "bytes": len(page.encode())})
        return
    console.result(file)
