"""decode: run rendered features, or a photo's own, through their model's decoder, and write the results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from lift3d_cli.config import FRAME_FORMATS, POINTS, RAW_FORMATS, VIDEO_CODECS, VIDEO_QUALITY, DecodeConfig
from lift3d_cli.errors import UsageError
from lift3d_cli.machine.atomic import write_output
from lift3d_cli.machine.background import BackgroundWriter, prefetched
from lift3d_cli.machine.progress import Progress, no_progress
from lift3d_cli.models.base import FeatureMap, RenderedView
from lift3d_cli.pipeline.decode_job import ModelJob, ViewJob, open_job
from lift3d_cli.pipeline.decode_options import flag_of, frame_settings, photo_index
from lift3d_cli.pipeline.exr import require_openexr
from lift3d_cli.pipeline.feature_files import write_features
from lift3d_cli.pipeline.point_cloud import points, points_run
from lift3d_cli.pipeline.result_folder import ResultFolder, Run, claim_file
from lift3d_cli.pipeline.results import Result, TaskFolder
from lift3d_cli.pipeline.video import require_encoder, video_path, video_writer
from lift3d_cli.pipeline.workspace import Workspace

_OF_VIDEO = ("fps", "codec", "quality")
_OF_CLASSES = ("text", "strokes", "point", "clusters")


@dataclass(frozen=True)
class Decoded:
    """The result of `decode`.

    Args:
        frames: folder of the frames, one per pose or photo; or of feature files; or the file of points.
        video: the video, or None.
        note: a warning for the user, or "".
        remark: a line for the user that is no warning, or "".
        scale: width and height of the frames relative to the rendered views'.
    """

    frames: Path
    video: Path | None = None
    note: str = ""
    remark: str = ""
    scale: int = 1


def decode(
    render: Path,
    output: Path,
    config: DecodeConfig,
    progress: Progress = no_progress,
    open_workspace: Callable[[Path], Workspace] | None = None,
) -> Decoded:
    """Decode every frame of a render into `output/<task>/` and a video beside it; see `TaskFolder`.

    Where several models of the render can do the task, the folder is `<task>-<model>`. With `config.source_views`,
    decode photos from their own features instead, into `output/<task>-2d/`; with `config.raw`, write the features
    unchanged into `output/features/<model>/`. Task `points` writes `output/points.ply`.

    Args:
        render: folder of the render.
        output: folder of the results.
        config: settings.
        progress: see `Progress`.
        open_workspace: opens the scene at a path with its cache; needed only for tasks that use a photo.

    Raises:
        CacheError: if the render is missing, unfinished, or has no features for the task.
        UsageError: if an option does nothing, or another run's results are in the way.
        SceneError, ModelError, ResourceError: in one line.
    """
    _check_options(config)
    if config.task == POINTS:
        return _decode_points(render, output, config, progress, open_workspace)
    job = open_job(render, config, open_workspace)
    if config.raw:
        return _write_raw(job, output, progress)
    if config.source_views:
        return _decode_photos(job, output, progress)
    return _decode_frames(job, output, progress)


def _check_options(config: DecodeConfig) -> None:
    """Raise a UsageError for options that do nothing, whatever the render is."""
    for name, known in (("raw", ("", *RAW_FORMATS)), ("format", FRAME_FORMATS), ("codec", ("", *VIDEO_CODECS))):
        if getattr(config, name) not in known:
            raise UsageError(f"--{name} {getattr(config, name)!r} is not one of {', '.join(filter(None, known))}")
    if config.quality and not 1 <= config.quality <= 10:
        raise UsageError(f"--quality {config.quality:g} is not from 1 to 10")
    no_frames = "--raw" if config.raw else "--task points" if config.task == POINTS else ""
    no_video = no_frames or ("--source-view" if config.source_views else "")
    given = {"video": no_video} | dict.fromkeys(_OF_VIDEO, no_video or ("--no-video" if config.video is False else ""))
    given |= {
        "soft_masks": no_frames,
        "source_views": no_frames,
        "raw": "--task points" if config.task == POINTS else "",
    }
    given |= dict.fromkeys(("refine", *_OF_CLASSES, "style", "view", "seed"), "--raw" if config.raw else "")
    given["depth_scale"] = "" if (config.task, config.format) == ("depth", "png16") else "all but depth as png16"
    for name, without in given.items():
        _refuse(config, (name,) if without else (), f"with {without}")
    if no_frames and config.format != FRAME_FORMATS[0]:
        raise UsageError(f"--format does nothing with {no_frames}. hint: leave it out")


def _refuse(config: DecodeConfig, names: Sequence[str], why: str) -> None:
    """Raise a UsageError if one of these options is given."""
    for name in names:
        if getattr(config, name):
            raise UsageError(f"{flag_of(name)} does nothing {why}. hint: leave it out")


@torch.inference_mode()
def _decode_frames(job: ViewJob, output: Path, progress: Progress) -> Decoded:
    total, config = len(job.names), job.config
    sizes = {(camera.width, camera.height) for camera in job.colors.cameras}
    no_video = "the path has one pose" if total == 1 else "the poses are of different sizes" if len(sizes) > 1 else ""
    _refuse(config, ("video", *_OF_VIDEO) if no_video else (), f"here: {no_video}")
    has_video = config.video is not False and not no_video
    codec = config.codec or VIDEO_CODECS[0]
    video = video_path(output, job.folder_name, codec) if has_video else None
    _require(config, codec if has_video else "")
    fps = config.fps or job.colors.fps
    cameras = [c.resized(job.scale * c.width, job.scale * c.height) for c in job.colors.cameras]
    claimed = _folder(job, output / job.folder_name, config.format, job.task)
    beside = [video.name] if video else []
    claimed.check(beside)
    decoder = job.begin()
    with (
        video_writer(video, fps, codec, config.quality or VIDEO_QUALITY) as append,
        prefetched(range(total), job.read) as frames,
        BackgroundWriter() as later,
    ):
        folder = TaskFolder(claimed.root, config.format, config.soft_masks, later)
        names = progress(job.names, f"decode {job.task}", total)
        for index, (name, stored) in enumerate(zip(names, frames, strict=True)):
            result = job.decode(decoder, stored)
            if not index:  # nothing that was there is touched before a frame could be decoded
                claimed.begin(cameras, fps, [*folder.beside(result.value), *beside], frame_settings(config))
            later(append, folder.write(name, result))
    claimed.finish()
    no_video = f"no video: {no_video}" if no_video and config.video is None else ""
    note = "; ".join(filter(None, (job.note, no_video if total > 1 else "")))
    return Decoded(claimed.root, video, note, no_video if total == 1 else "", job.scale)


@torch.inference_mode()
def _decode_photos(job: ViewJob, output: Path, progress: Progress) -> Decoded:
    """Decode photos with the 2D model, for comparison with the lifted frames."""
    assert isinstance(job, ModelJob)
    _require(job.config)
    scene = job.scene().scene
    chosen = [scene.views[photo_index(scene, name)] for name in job.config.source_views]
    config, names = job.config, [Path(view.name).stem for view in chosen]
    cameras = [v.camera.resized(job.scale * v.camera.width, job.scale * v.camera.height) for v in chosen]
    claimed = _folder(job, output / f"{job.folder_name}-2d", config.format, f"{job.task}-2d", names)
    claimed.check()
    decoder = job.begin()
    folder = TaskFolder(claimed.root, config.format, config.soft_masks)
    for index, view in enumerate(progress(chosen, f"decode {job.task} of photos", len(chosen))):
        features, image = job.photo(view.name)
        shown = RenderedView(image, torch.ones_like(image[0]))
        result = Result(job.decoded(decoder, features, shown), image)
        if not index:
            claimed.begin(cameras, job.colors.fps, folder.beside(result.value), frame_settings(config))
        folder.write(names[index], result)
    claimed.finish()
    return Decoded(claimed.root, scale=job.scale)


def _write_raw(job: ViewJob, output: Path, progress: Progress) -> Decoded:
    assert isinstance(job, ModelJob)
    total, kind, colors = len(job.names), job.config.raw, job.colors
    _require(job.config)
    claimed = _folder(job, output / "features" / job.model_name, kind, "features")
    claimed.begin(colors.cameras, colors.fps)
    for index in progress(range(total), "write features", total):
        data, grid, _ = job.features.read_frame(index)
        features, camera = FeatureMap(data, grid), colors.cameras[index]
        path = claimed.root / job.names[index]
        write_features(path, features, job.model_name, job.model.spec.stride, camera, kind)
    claimed.finish()
    return Decoded(claimed.root)


@torch.inference_mode()
def _decode_points(
    render: Path,
    output: Path,
    config: DecodeConfig,
    progress: Progress,
    open_workspace: Callable[[Path], Workspace] | None,
) -> Decoded:
    """Write the points that the frames show, with the classes of a segmentation or a model's features if so asked."""
    has_classes = any(getattr(config, name) for name in _OF_CLASSES)
    if not has_classes:
        _refuse(config, ("style", "view", "refine", "seed"), "with --task points without classes")
    task = "segment" if has_classes else "" if config.model else "color"
    job = open_job(render, replace(config, task=task), open_workspace)
    file = output / f"{POINTS}.ply"
    run = _run(job, f"{POINTS} {task}".strip())
    claim_file(file, points_run(file), run, config.move_aside, only_check=True)
    content = points(job, has_classes, progress, asdict(run))
    claim_file(file, points_run(file), run, config.move_aside)
    write_output(file, content)
    return Decoded(file)


def _require(config: DecodeConfig, codec: str = "") -> None:
    """Check that what the files need is installed, before anything that is there is touched.

    Raises:
        ResourceError: if it is not.
    """
    if "exr" in (config.raw or config.format):
        require_openexr()
    if codec:
        require_encoder(codec)


def _folder(job: ViewJob, root: Path, format: str, task: str, names: Sequence[str] | None = None) -> ResultFolder:
    return ResultFolder(root, format, _run(job, task), names or job.names, job.config.move_aside)


def _run(job: ViewJob, task: str) -> Run:
    return Run(job.colors.key, task, job.model_name, job.features.key if isinstance(job, ModelJob) else "")
