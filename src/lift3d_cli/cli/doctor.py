"""lift3d doctor."""

from __future__ import annotations

from pathlib import Path

from lift3d_cli.cli import console, options
from lift3d_cli.config import RenderConfig
from lift3d_cli.errors import Lift3dError, ResourceError
from lift3d_cli.machine.wording import counted

_LEAST_FREE_BYTES = 2**30


class _NoDeviceError(Exception):
    """There is nothing to run the self-test on."""


def doctor(
    device: options.Device = RenderConfig.device,
    cache: options.CacheOption = None,
    json: options.JsonTables = False,
) -> None:
    """Say whether lift3d can work here: versions, device, video, memory, disk, and a test of two seconds.

    Example: lift3d doctor
    """
    facts = _versions() | _machine(device, cache)
    problems = [str(value["problem"]) for value in facts.values() if isinstance(value, dict) and value.get("problem")]
    shown = {key: value["is"] if isinstance(value, dict) else value for key, value in facts.items()}
    try:
        if isinstance(facts["device"], dict):
            raise _NoDeviceError
        from lift3d_cli.pipeline.self_test import self_test

        done = self_test(device)
        size = "{}x{}".format(*done.size)
        shown["self-test"] = f"a frame of {size} in {done.seconds:.2g} s, {done.psnr:.1f} dB of the true picture"
        if not done.is_right:
            problems.append("the self-test's picture is wrong: report it, with these lines")
    except _NoDeviceError:  # which is a problem that is said already
        shown["self-test"] = "not run: there is no such device"
    except Lift3dError as error:
        shown["self-test"] = "failed"
        problems.append(str(error))
    verdict = counted(len(problems), "problem") if problems else "all is well"
    if json:
        console.as_json({**shown, "problems": problems, "verdict": verdict})
    else:
        lines = [f"{key:12} {value}" for key, value in shown.items()]
        console.text("\n".join([*lines, *(f"{'problem':12} {text}" for text in problems), f"{'verdict':12} {verdict}"]))
    if problems:
        joint = ": " if " hint: " in problems[0] else ". hint: "  # an error that is a problem has its own hint
        raise ResourceError(f"{verdict} (above){joint}{problems[0]}")


def _versions() -> dict[str, object]:
    import platform
    from importlib import metadata

    import lift3d_cli

    found = {"lift3d": lift3d_cli.__version__, "python": platform.python_version(), "system": platform.platform()}
    for package in ("torch", "numpy", "opencv-python-headless", "pillow"):
        found[package.split("-")[0]] = _version(metadata, package) or "not installed"
    extras = {"hf": ("transformers", "diffusers"), "exr": ("OpenEXR",), "depth": ("trimesh", "embreex")}
    there = [name for name, packages in extras.items() if all(_version(metadata, p) for p in packages)]
    return {**found, "extras": ", ".join(there) or "none"}


def _version(metadata: object, package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _machine(device: str, cache: Path | None) -> dict[str, object]:
    """Return facts of the machine, those with a problem as {"is", "problem"}."""
    import os
    import shutil

    import torch

    from lift3d_cli.machine.device import free_bytes, resolve_device, resolve_precision

    missing = ""
    try:
        where = resolve_device(device)
    except ResourceError as error:
        where, missing = torch.device("cpu"), str(error)
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else f"{os.cpu_count()} cores"
    place = cache or Path(os.environ.get("LIFT3D_CACHE") or ".")
    existing = next(folder for folder in (place, *place.resolve().parents) if folder.exists())
    disk, memory = shutil.disk_usage(existing).free, free_bytes(where)
    is_writable = os.access(existing, os.W_OK)
    hub = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    return {
        "device": {"is": f"{device}: none", "problem": missing}
        if missing
        else f"{where}: {name}, {resolve_precision('auto', where)}",
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()}",
        "memory": _enough(f"{console.human_bytes(memory)} free", memory, "memory"),
        "disk": _enough(f"{console.human_bytes(disk)} free at {existing.resolve()}", disk, "disk space")
        if is_writable
        else {"is": f"{existing.resolve()} cannot be written", "problem": f"{existing}: no permission; --cache DIR"},
        "hub": f"{hub}{'' if hub.exists() else ', nothing there yet'}"
        + (", offline" if os.environ.get("HF_HUB_OFFLINE") else ""),
        "ffmpeg": _ffmpeg(),
    }


def _enough(text: str, free: int, what: str) -> dict[str, str]:
    problem = f"less than 1 GB of {what} is free" if free < _LEAST_FREE_BYTES else ""
    return {"is": text, "problem": problem}


def _ffmpeg() -> dict[str, str]:
    """Return the version of the ffmpeg that writes videos."""
    import subprocess

    try:
        import imageio_ffmpeg

        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-version"]
        line = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.splitlines()[0]
        return {"is": " ".join(line.split()[:3]), "problem": ""}
    except (ImportError, OSError, RuntimeError, subprocess.SubprocessError, IndexError) as error:
        return {"is": "missing", "problem": f"no ffmpeg for videos ({error}): pip install 'imageio[ffmpeg]'"}
