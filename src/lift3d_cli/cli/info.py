"""lift3d info."""

from __future__ import annotations

from lift3d_cli.cli import console, inputs, options
from lift3d_cli.machine.wording import counted


def info(
    scene: options.SceneArgument,
    check: options.Check = True,
    cache: options.CacheOption = None,
    json: options.Json = False,
) -> None:
    """Say what is in a scene and its cache, and whether the poses fit the photos."""
    from lift3d_cli.cache.inventory import inventory
    from lift3d_cli.cli.cache import made_by

    loaded = inputs.open_scene(scene)
    store = inputs.open_cache(loaded, cache)
    root, facts = store.root, _scene_facts(loaded)
    if check:
        facts |= _check_facts(loaded, store if root.is_dir() else None)
    holdings = [
        {
            "kind": h.kind,
            "path": str(h.path),
            "model": h.encoder.name if h.encoder else None,
            "files": h.num_files,
            "bytes": h.num_bytes,
            "made_by": made_by(h),
            "problem": h.problem,
        }
        for h in inventory(root)
    ]
    if json:
        console.as_json({"scene": facts, "cache": {"path": str(root), "holdings": holdings}})
        return
    lines = [f"{key:10} {value}" for key, value in _in_words(facts).items() if value]
    lines.append(f"{'cache':10} {root}, {console.human_bytes(sum(h['bytes'] for h in holdings))}")
    for h in holdings:
        name = h["model"] or h["path"].rsplit("/", 1)[-1]
        problem = f"  cannot be used: {h['problem']}" if h["problem"] else ""
        files = counted(h["files"], "file")
        what = f"{h['kind']:9} {name:32} {files:>11} {console.human_bytes(h['bytes']):>10}"
        lines.append(f"  {what}  {h['made_by']}{problem}".rstrip())
    console.text("\n".join(lines))


def _in_words(facts: dict[str, object]) -> dict[str, str]:
    """Return a scene's facts as a person reads them; "" for what there is none of."""
    words = {key: str(value) for key, value in facts.items() if value}
    words["sizes"] = ", ".join(facts["sizes"]) + " pixels"
    words["extent"] = " x ".join(f"{side:.3g}" for side in facts["extent"]) + " units, of the cameras"
    return {**words, "bytes": "", "photos": f"{facts['photos']}, {console.human_bytes(facts['bytes'])}"}


def _scene_facts(scene) -> dict[str, object]:
    import numpy as np

    from lift3d_cli.scene.depth_files import count_depth_formats
    from lift3d_cli.scene.photo_files import natural_key

    sizes = sorted({f"{c.width}x{c.height}" for c in scene.cameras}, key=natural_key)
    positions = np.stack([camera.position for camera in scene.cameras])
    return {
        "path": str(scene.root),
        "format": scene.format,
        "photos": len(scene.views),
        "sizes": sizes if len(sizes) <= 3 else [*sizes[:3], f"and {len(sizes) - 3} more"],
        "distorted": sum(view.distortion is not None for view in scene.views),
        "masked": sum(view.mask_path is not None for view in scene.views),
        "depth": ", ".join(f"{count} {name}" for name, count in count_depth_formats(scene).items()) or None,
        "points": None if scene.points is None else len(scene.points),
        "extent": [float(f"{x:.5g}") for x in np.ptp(positions, axis=0)],
        "unread": list(scene.unread_keys),
        "bytes": sum(view.image_path.stat().st_size for view in scene.views),
    }


def _check_facts(scene, store) -> dict[str, object]:
    """Return the photos' verdict on the poses, and near and far of all photos with what they come from."""
    from collections import Counter

    from lift3d_cli.pipeline.checked import checked
    from lift3d_cli.pipeline.workspace import Workspace
    from lift3d_cli.scene.bounds import sourced_depth_range

    used, verdict = checked(scene, store)
    for warning in verdict.warnings():
        console.warn(warning)
    points = Workspace(used, store).points()
    ranges = [sourced_depth_range(view.camera, points, used.views) for view in used.views]
    near, far = min(r[0][0] for r in ranges), max(r[0][1] for r in ranges)
    source = {
        "points": "from points of the file" if used.points is not None else "from points triangulated from the photos",
        "file": "from bounds in the file",
        "guess": "guessed",
    }[Counter(r[1] for r in ranges).most_common(1)[0][0]]
    return {"poses": verdict.summary(), "depths": f"{near:.4g} to {far:.4g}, {source}"}
