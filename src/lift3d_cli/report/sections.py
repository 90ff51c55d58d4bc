"""The sections of a report as HTML: text, pictures and tables, at a given size."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from lift3d_cli.pipeline.trust import judge
from lift3d_cli.report.collect import DecodedTask, ReportedRender, StoredFrame
from lift3d_cli.report.compare import ALONE, LIFTED, Comparison
from lift3d_cli.report.pictures import CONFIDENCE, CORRECTION, DEPTH, UNSEEN, colored, enlarged, gradient, jpeg, mp4
from lift3d_cli.report.shown import Shown, Size
from lift3d_cli.report.tables import table
from lift3d_cli.scene.paths import write_path


def lead(shown: Shown) -> str:
    """Describe the render in a sentence."""
    run = shown.run
    photos, frames = run.workspace.num_photos, len(run.cameras)
    if not run.lifted:
        return f"{frames} new viewpoints were rendered from {photos} photos: their colour and depth, without a model."
    done = (
        f"{photos} photos were encoded once by a 2D vision model; its features were rendered at {frames} new viewpoints"
    )
    if not shown.decoded:
        return f"{done}. They are not decoded yet."
    tasks = ", ".join(f"<b>{escape(task)}</b>" for task in shown.decoded)
    return f"{done} and decoded there ({tasks}), instead of running the model on every frame."


def story(shown: Shown, size: Size) -> str:
    """Show the method in three pictures."""
    run, middle = shown.run, len(shown.run.frames) // 2
    frame, side = run.frames[middle], min(size.picture, 480)
    names = shown.photo_names()
    photos = "".join(
        f'<img alt="{escape(names[i])}" src="{jpeg(run.workspace.photo(i).image, side // 2)}">'
        for i in sorted(frame.sources[:4])
    )
    encoded = f", each encoded once ({escape(', '.join(run.lifted))})" if run.lifted else ""
    rendered = "Colour and features" if run.lifted else "Colour and depth"
    steps = [
        f'<div class="photos">{photos}</div>',
        f'<img alt="" src="{jpeg(frame.image, side)}">',
        *(f'<img alt="" src="{jpeg(images[middle], side)}">' for images in list(shown.decoded.values())[:1]),
    ]
    texts = [
        ("1. Photos", f"{run.workspace.num_photos} with known cameras{encoded}."),
        ("2. A new viewpoint", f"{rendered}, rendered from {len(frame.sources)} photos."),
        ("3. Decoded", f"{escape(next(iter(shown.decoded), ''))}: features to picture, by the model’s own decoder."),
    ]
    captions = [f"<figcaption><b>{title}</b>{text}</figcaption>" for title, text in texts]
    return "".join(f"<li><figure>{a}{b}</figure></li>" for a, b in zip(steps, captions, strict=False))


def cards(shown: Shown) -> str:
    """Show the quality in a few figures."""
    run = shown.run
    coverage = float(np.mean([float(frame.coverage.mean()) for frame in run.frames]))
    facts = [
        ("Photos → viewpoints", f"{run.workspace.num_photos} → {len(run.cameras)}", _size(run)),
        ("Covered by photos", f"{coverage:.1%}", "of the frames’ pixels; the rest is filled in"),
    ]
    for task, comparison in shown.compared.items():
        near, far = (_times(comparison, pair) for pair in ("near", "far"))
        if near and far:
            than = "as" if near.endswith("much") else "than"
            text = f"{than} the 2D model run on each frame; between distant frames {far}"
            facts.append((f"Flicker of {escape(task)}", near, text))
    for name, document in shown.metrics.items():
        mean = document.get("mean") if isinstance(document, Mapping) else None
        if isinstance(mean, Mapping) and isinstance(mean.get("psnr"), float):
            facts.append(("Colour on left-out photos", f"{mean['psnr']:.1f} dB", f"PSNR, {escape(name)}"))
    return "".join(f"<div><dt>{t}</dt><dd>{v}<small>{s}</small></dd></div>" for t, v, s in facts)


def warnings(shown: Shown) -> str:
    """Show the warnings of `render`."""
    run = shown.run
    if not run.render.has_confidence:
        return ""
    return "".join(f'<p class="warning">{escape(shown.said(text))}.</p>' for text in judge(run.render).warnings)


def _times(comparison: Comparison, pair: str) -> str:
    """Say how many times less lifted frames contradict each other than the 2D model's; "" if that is unknown."""
    ours, theirs = (comparison.contradictions[method][pair] for method in (LIFTED, ALONE))
    if not (ours > 0 and theirs > 0):
        return ""
    ratio = max(theirs / ours, ours / theirs)
    if round(ratio, 1) == 1:
        return "about as much"
    return f"{ratio:.1f}× {'less' if ours < theirs else 'more'}"


def _size(run: ReportedRender) -> str:
    sizes = sorted({(camera.width, camera.height) for camera in run.cameras})
    return ", ".join(f"{w} × {h}" for w, h in sizes[:2]) + " pixels" + (" and others" if len(sizes) > 2 else "")


def pairs(shown: Shown, task: DecodedTask, stills: Sequence[int], size: Size) -> list[dict[str, object]]:
    """Return the pictures for the slider: rendered colour and decoded, and the 2D model's result and decoded."""
    frames, decoded = shown.run.frames, shown.decoded[task.name]
    right = [jpeg(decoded[i], size.picture) for i in stills]
    pictures = [frames[i].image for i in stills]
    lefts = {"rendered": pictures}
    if task.name == "colorize":
        lefts = {"grey input": [_grey(image) for image in pictures]}
    if task.name in shown.compared:
        lefts[f"2D {shown.compared[task.name].model}"] = [shown.compared[task.name].images[i] for i in stills]
    height, width = frames[0].image.shape[:2]
    names = shown.frame_names()
    return [
        {
            "left": label,
            "right": f"lifted {task.name}",
            "ratio": width / height,
            "legend": task.legend,
            "frames": [
                [names[frames[i].index], jpeg(a, size.picture), b]
                for i, a, b in zip(stills, images, right, strict=True)
            ],
        }
        for label, images in lefts.items()
    ]


def _grey(image: np.ndarray) -> np.ndarray:
    return (image @ [0.299, 0.587, 0.114]).round().astype(np.uint8)[..., None].repeat(3, 2)


def _uncovered(frame: StoredFrame) -> np.ndarray:
    """Return the picture in grey, tinted where no photo sees anything."""
    hidden = 1 - frame.coverage.numpy()[..., None]
    return (_grey(frame.image) * (1 - hidden) + hidden * UNSEEN).astype(np.uint8)


def left_out(shown: Shown, stills: Sequence[int]) -> str:
    """Say which frames the slider shows."""
    shown_of_all = f"{len(stills)} of {len(shown.run.cameras)} viewpoints"
    return f"{shown_of_all}, so that the file stays small." if len(stills) < len(shown.run.cameras) else shown_of_all


def videos(shown: Shown, size: Size) -> tuple[list[list[dict[str, object]]], str]:
    """Return the clips of each row, and the rows."""
    run, rows, html = shown.run, [], ""
    if len({frame.image.shape for frame in run.frames}) > 1 or len(run.frames) < 2:
        return [], ""
    for task in run.tasks:
        clips = {f"Lifted {task.name}": shown.decoded[task.name]}
        if comparison := shown.compared.get(task.name):
            clips[f"2D {comparison.model} on each frame"] = comparison.images
        clips["Rendered colour"] = [frame.image for frame in run.frames]
        rows.append([{"fps": run.fps, "mp4": mp4(images, size.video, run.fps, size.crf)} for images in clips.values()])
        figures = "".join(
            f"<figure><video muted playsinline></video><figcaption><b>{escape(label)}</b></figcaption></figure>"
            for label in clips
        )
        control = '<button>Play</button> <input type="range" min="0" max="1000" value="0" aria-label="Time">'
        html += f'<div class="videos">{figures}</div><div class="scrub">{control}</div>'
        html += _steadiness(comparison, task.name) if comparison else f'<p class="note">{_note(shown, task.name)}</p>'
    if run.step > 1:
        html += f'<p class="note">One in {run.step} frames of the path is shown, {run.fps:.3g} a second.</p>'
    return rows, html


def _note(shown: Shown, what: str) -> str:
    return escape(shown.notes.get(what, ""))


def _steadiness(comparison: Comparison, task: str) -> str:
    what = "a and b of Lab" if task == "colorize" else "sRGB"
    rows = {
        method: {"near error": found["near"], "far error": found["far"], "contrast": found["contrast"]}
        for method, found in comparison.contradictions.items()
    }
    return table(f"How much frames contradict each other ({escape(task)})", rows, is_comparison=True) + (
        f'<p class="note">RMS difference ({what}) over the surface that both frames show, by the rendered depth, in '
        "parts of the contrast. Near: neighbouring frames; far: a quarter of the path apart. “rendered-colour” is the "
        "picture itself, which no model has touched: what depth and lighting alone make different. The 2D model gets "
        "the rendered picture as it is.</p>"
    )


def frame_maps(shown: Shown, size: Size) -> str:
    """Show depth, coverage and correction of a few frames."""
    html, side = "", min(size.picture, 480)
    unseen = "linear-gradient(90deg, #888, rgb({} {} {}))".format(*UNSEEN)
    for n, place in enumerate(shown.chosen):
        frame = shown.run.frames[place]
        near, far = shown.run.render.depth_range(frame.index)
        height, width = frame.depth.shape
        inverse = ((1 / frame.depth - 1 / far) / (1 / near - 1 / far)).numpy()
        tiles = [
            (frame.image, f"viewpoint {escape(shown.frame_names()[frame.index])}", ""),
            (colored(inverse, DEPTH), "depth", _key(DEPTH, f"{far:.3g}", f"{near:.3g}")),
            (
                _uncovered(frame),
                "not covered",
                f'<div class="key">seen<i style="background:{unseen}"></i>unseen</div>',
            ),
        ]
        if frame.confidence is not None:
            picture = colored(frame.confidence.numpy(), CONFIDENCE)
            tiles.append((picture, "confidence", _key(CONFIDENCE, "0", "1")))
        for model, maps in shown.corrected.items():
            top = max(float(np.percentile(np.concatenate([m.ravel() for m in maps]), 99)), 1e-6)
            picture = enlarged(colored(maps[n] / top, CORRECTION), width, height)
            tiles.append((picture, f"correction, {escape(model)}", _key(CORRECTION, "0", f"{top:.2g}")))
        figures = "".join(
            f'<figure><img alt="{label}" src="{jpeg(image, side, 88)}"><figcaption>{label}</figcaption>{key}</figure>'
            for image, label, key in tiles
        )
        html += f'<div class="inside" style="grid-template-columns:repeat({len(tiles)},1fr)">{figures}</div>'
    about = [
        "Depth: z in the scene’s units, evenly in 1/z.",
        "Tinted: what no photo sees, by the share of its samples.",
    ]
    if shown.run.frames[0].confidence is not None:
        about.append("Confidence: how well photos and samples agree, without knowing the truth.")
    if shown.corrected:
        about.append("Correction: |R| of each feature cell, what the corrector added, over the RMS of the features.")
    return f'{html}<p class="note">{" ".join(about)} {_note(shown, "corrector")}</p>'


def _key(colors: int, low: str, high: str) -> str:
    return f'<div class="key">{low}<i style="background:{gradient(colors)}"></i>{high}</div>'


def made(shown: Shown) -> str:
    """Show commands, the poses to download, versions."""
    run = shown.run
    with tempfile.TemporaryDirectory() as folder:
        file = write_path(Path(folder) / "path.json", run.cameras, run.render.fps, shown.frame_names())
        poses = base64.b64encode(file.read_bytes()).decode()
    link = f'<a download="path.json" href="data:application/json;base64,{poses}">path.json</a>'
    if shown.is_public:
        return f'<p class="note">The poses: {link}.</p>'
    versions = "".join(f"<dt>{escape(what)}</dt><dd>{escape(which)}</dd>" for what, which in run.versions().items())
    return (
        f"<pre><code>{escape(chr(10).join(run.commands()))}</code></pre>"
        f'<p class="note">The poses: {link}.'
        " Options that say where or how fast to compute, and options of decode, are not recorded.</p>"
        f'<dl class="facts">{versions}</dl>'
    )
