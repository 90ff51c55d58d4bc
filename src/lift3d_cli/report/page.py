"""The report: one self-contained HTML file, which states what was left out to keep it small."""

from __future__ import annotations

import json
import re
from html import escape
from importlib import resources

import numpy as np

from lift3d_cli.config import ReportConfig
from lift3d_cli.errors import Lift3dError, ResourceError
from lift3d_cli.machine.progress import Progress, no_progress
from lift3d_cli.report import sections
from lift3d_cli.report.collect import ReportedRender
from lift3d_cli.report.compare import corrections, run_2d
from lift3d_cli.report.metrics_files import read_metrics, said_to_others
from lift3d_cli.report.plot import plot_data
from lift3d_cli.report.shown import Shown, Size
from lift3d_cli.report.tables import metrics_html

MAX_BYTES = 20_000_000
# Number of frames whose correction is shown: each is rendered again.
_CORRECTED = 3


# Sizes to try; the first that fits is used.
SIZES = (
    Size(720, 16, 480, 23, 200, 4000),
    Size(560, 10, 400, 26, 140, 3000),
    Size(420, 6, 320, 28, 96, 2000),
    Size(320, 3, 240, 32, 48, 1000),
)


def make_report(run: ReportedRender, config: ReportConfig, progress: Progress = no_progress) -> str:
    """Make the page's HTML, smaller than 20 MB.

    Raises:
        SceneError, CacheError, ModelError, ResourceError: in one line.
    """
    metrics = read_metrics(config, run.workspace)
    count = len(run.frames)
    chosen = sorted({round(i * (count - 1) / max(_CORRECTED - 1, 1)) for i in range(_CORRECTED)})
    decoded = {task.name: run.decoded_frames(task) for task in run.tasks}
    shown = Shown(run, decoded, chosen, is_public=config.public)
    shown.metrics = {name: said_to_others(document, shown.private_photos()) for name, document in metrics.items()}
    for task in run.tasks if config.compare_2d else ():
        try:
            shown.compared[task.name] = run_2d(run, task, decoded[task.name], config, progress)
        except Lift3dError as e:
            shown.notes[task.name] = f"No 2D model beside “{task.name}”: {shown.said(str(e))}."
    try:
        shown.corrected = corrections(run, chosen, config, progress)
    except Lift3dError as e:
        shown.notes["corrector"] = f"The corrector’s work is not shown: {shown.said(str(e))}."
    for size in SIZES:
        page = _page(shown, size)
        if len(page.encode()) < MAX_BYTES:
            return page
    raise ResourceError(
        f"{run.render.root}: a report of it is {len(page.encode()) / 1e6:.0f} MB. hint: smaller --frames"
    )


def _page(shown: Shown, size: Size) -> str:
    run = shown.run
    stills = sorted({round(i) for i in np.linspace(0, len(run.frames) - 1, size.stills)})
    pairs = [pair for task in run.tasks for pair in sections.pairs(shown, task, stills, size)]
    clips, videos = sections.videos(shown, size)
    data = {
        "plot": plot_data(run, size.thumbnail, size.points, shown.photo_names(), shown.frame_names()),
        "pairs": pairs,
        "videos": clips,
    }
    slots = {
        "name": escape(run.workspace.scene.root.resolve().name),
        "lead": sections.lead(shown),
        "story": sections.story(shown, size),
        "cards": sections.cards(shown),
        "warnings": sections.warnings(shown),
        "pairs": sections.left_out(shown, stills) if pairs else "",
        "videos": videos,
        "inside": sections.frame_maps(shown, size),
        "metrics": "".join(metrics_html(name, document) for name, document in shown.metrics.items()),
        "made": sections.made(shown),
        "footer": "One file, nothing is loaded from anywhere. Made by <code>lift3d report</code>.",
        # In a script, "</" could end it.
        "data": json.dumps(data, allow_nan=False).replace("</", "<\\/"),
        "style": _file("page.css"),
        "script": _file("page.js"),
    }
    page = re.sub(
        r'<section [^>]*data-if="(\w+)">.*?</section>\n',
        lambda section: section[0] if slots[section[1]] else "",
        _file("page.html"),
        flags=re.DOTALL,
    )
    return re.sub(r"\{\{(\w+)\}\}", lambda slot: slots[slot[1]], page)


def _file(name: str) -> str:
    return (resources.files("lift3d_cli.report") / name).read_text(encoding="utf-8")
