"""Results of `eval --json` for a report: whether they are of its scene, and what others may read of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from lift3d_cli.config import ReportConfig
from lift3d_cli.errors import SceneError
from lift3d_cli.pipeline.workspace import Workspace
from lift3d_cli.report.collect import for_others, read_json

# What earlier versions said instead of a hint.
_OPTION = re.compile(r"; --[a-z].*")


def read_metrics(config: ReportConfig, workspace: Workspace) -> Mapping[str, object]:
    """Read the results of `eval --json`, by file name.

    Raises:
        SceneError: if a file cannot be read, has no results, or has those of other scenes only.
    """
    found = {}
    scene = workspace.scene.root
    for path in config.metrics:
        document = read_json(path)
        measured = list(_scenes(document))
        again = f"hint: lift3d eval {scene} --json > {path.name}"
        if not measured:
            raise SceneError(f"{path}: is no result of lift3d eval --json. {again}")
        if not any(_is_of(each, workspace) for each in measured):
            names = sorted({str(each["scene"]) for each in measured})
            of = f"the render is of {scene.resolve().name}"
            if scene.resolve().name in names:
                of = "the render is of other photos"
            raise SceneError(f"{path}: is of {', '.join(names[:3])}, {of}. {again}")
        found[path.with_suffix("").name] = document
    return found


def _scenes(document: object) -> Iterator[Mapping[str, object]]:
    """Find the results of single scenes in what `eval --json` printed."""
    if isinstance(document, Mapping):
        if isinstance(document.get("scene"), str) and document["scene"]:
            yield document
        for value in document.values():
            yield from _scenes(value)
    elif isinstance(document, list):
        for value in document:
            yield from _scenes(value)


def _is_of(measured: Mapping[str, object], workspace: Workspace) -> bool:
    """Tell if a result is of a scene: by its photos; where they are not recorded, by what is named."""
    if isinstance(measured.get("photos"), str):
        return measured["photos"] == workspace.photos_digest()
    scene, views = workspace.scene, measured.get("views")
    rows = [row for row in views if isinstance(row, Mapping)] if isinstance(views, list) else []
    named = {str(row["name"]) for row in rows if "name" in row}
    is_named = measured["scene"] in {scene.root.name, scene.root.resolve().name}
    return is_named and named <= {view.name for view in scene.views}


def said_to_others(document: object, photos: Mapping[str, str]) -> object:
    """Return results without hints, folders of this machine and digests, with other names for photos.

    Args:
        document: what `eval --json` printed.
        photos: what to call each photo, by its name; empty to keep all names.
    """
    if isinstance(document, Mapping):
        kept = {key: value for key, value in document.items() if key != "photos" or not isinstance(value, str)}
        return {
            key: _views(value, photos) if key == "views" else said_to_others(value, photos)
            for key, value in kept.items()
        }
    if isinstance(document, list):
        return [said_to_others(value, photos) for value in document]
    return without_names(for_others(_OPTION.sub("", document)), photos) if isinstance(document, str) else document


def _views(rows: object, photos: Mapping[str, str]) -> object:
    """Return the rows of photos; those that the scene does not have, or no more, are numbered."""
    if not photos or not isinstance(rows, list):
        return said_to_others(rows, photos)
    numbered = {n: row for n, row in enumerate(rows) if isinstance(row, Mapping)}
    names = {n: photos.get(str(row.get("name")), f"row {n + 1}") for n, row in numbered.items()}
    return [{**said_to_others(row, photos), "name": names[n]} for n, row in numbered.items()]


def without_names(text: str, names: Mapping[str, str]) -> str:
    """Replace names in a text, whole ones only."""
    if not names:
        return text
    longest_first: Sequence[str] = sorted(names, key=len, reverse=True)
    pattern = r"(?<![\w./-])(?:" + "|".join(map(re.escape, longest_first)) + r")(?![\w/-])"
    return re.sub(pattern, lambda found: names[found[0]], text)
