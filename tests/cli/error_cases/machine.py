"""Devices, memory and disks; what cannot be evaluated or trained; Ctrl-C."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import torch
from commands import FAST, Run

from error_cases.cases import Cases, edit_json

case = Cases()


def fails_with(number: int, path: str | None = None) -> Callable:
    def fail(*_, **__):
        raise OSError(number, os.strerror(number), path)

    return fail


# ---- devices, memory, disks ------------------------------------------------------------------------------------------


@case
def no_cuda_device(run: Run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    return ["render", "--device", "cuda"]


@case
def device_is_unknown(run: Run):
    return ["encode", "scene", "--model", "rgb", "--device", "tpu"]


@case
def device_of_the_environment_is_unknown(run: Run, monkeypatch):
    monkeypatch.setenv("LIFT3D_DEVICE", "mps")
    return ["encode", "scene", "--model", "rgb"]


@case
def memory_is_no_size(run: Run):
    return ["render", "--memory", "lots"]


@case
def memory_is_too_little(run: Run):
    return ["render", "--memory", "1MiB"]


@case
def disk_is_full_while_encoding(run: Run, monkeypatch):
    monkeypatch.setattr("lift3d_cli.machine.atomic.os.replace", fails_with(errno.ENOSPC))
    return ["encode", "scene", "--model", "rgb"]


@case
def disk_is_full_while_rendering(run: Run, monkeypatch):
    monkeypatch.setattr("lift3d_cli.machine.atomic.os.replace", fails_with(errno.ENOSPC))
    return ["render", "--views", "3", *FAST[:4]]


@case
def disk_is_full_in_a_library(run: Run, monkeypatch):
    monkeypatch.setattr("lift3d_cli.pipeline.encode.to_image", fails_with(errno.ENOSPC, "/somewhere/big"))
    return ["encode", "scene", "--model", "rgb"]


@case
def output_cannot_be_written(run: Run):
    Path("taken").write_text("a file, not a folder")
    return ["decode", "--output", "taken/here"]


@case
def memory_runs_out(run: Run, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: 12 bytes")

    monkeypatch.setattr("lift3d_cli.pipeline.encode.to_image", fail)
    return ["encode", "scene", "--model", "rgb"]


@case
def gpu_memory_runs_out(run: Run, monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr("lift3d_cli.pipeline.encode.to_image", fail)
    return ["encode", "scene", "--model", "rgb"]


# ---- evaluating and training -----------------------------------------------------------------------------------------


@case
def every_photo_is_left_out(run: Run):
    return ["eval", "scene", "--every", "1"]


@case
def nothing_to_train_on(run: Run):
    return ["train", "renderer", "--weights", "none"]


@case
def nothing_is_tuned_to_the_scene(run: Run):
    return ["render", "--tuned"]


@case
def too_few_photos_to_tune_to(run: Run):
    edit_json(Path("scene/transforms.json"), lambda data: data.update(frames=data["frames"][:2]))
    return ["tune", "scene", "--device", "cpu"]


@case
def corrector_without_a_model_to_learn_from(run: Run):
    return ["train", "corrector", "scene", "--weights", "none", "--device", "cpu"]


@case
def training_that_is_there_already(run: Run):
    (run.folder / "run").mkdir()
    (run.folder / "run" / "checkpoint.safetensors").write_bytes(b"")
    return ["train", "renderer", "scene", "--run", "run"]


# ---- Ctrl-C ----------------------------------------------------------------------------------------------------------


@case
def interrupted(run: Run, monkeypatch):
    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("lift3d_cli.pipeline.encode.to_image", fail)
    return ["encode", "scene", "--model", "rgb"]
