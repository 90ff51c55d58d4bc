"""lift3d info."""

from __future__ import annotations

from lift3d_cli.cli import console, inputs, options


def info(
    scene: options.SceneArgument,
    cache: options.CacheOption = None,
    json: options.Json = False,
) -> None:
    """Say what is in a scene and its cache."""
    from lift3d_cli.cache.inventory import inventory

    loaded = inputs.open_scene(scene)
    root = inputs.open_cache(loaded, cache).root
    facts = _scene_facts(loaded)
    holdings = [
        {
            "kind": h.kind,
            "path": str(h.path),
            "model": h.encoder.name if h.encoder else None,
            "files": h.num_files,
            "bytes": h.num_bytes,
            "problem": h.problem,
        }
        for h in inventory(root)
    ]
    if json:
        console.as_json({"scene": facts, "cache": {"path": str(root), "holdings": holdings}})
        return
    lines = [f"{key:10} {value}" for key, value in facts.items() if value not in (None, [])]
    lines.append(f"{'cache':10} {root}, {console.human_bytes(sum(h['bytes'] for h in holdings))}")
    for h in holdings:
        name = h["model"] or h["path"].rsplit("/", 1)[-1]
        problem = f"  cannot be used: {h['problem']}" if h["problem"] else ""
        lines.append(f"  {h['kind']:9} {name:32} {h['files']:5} files {console.human_bytes(h['bytes']):>10}{problem}")
    console.text("\n".join(lines))


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
        "extent": [round(float(x), 4) for x in np.ptp(positions, axis=0)],
        "unread": list(scene.unread_keys),
        "bytes": sum(view.image_path.stat().st_size for view in scene.views),
    }
