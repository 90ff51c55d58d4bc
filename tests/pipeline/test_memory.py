"""`--memory` bounds all that a render takes, at any number of channels, and changes nothing that is rendered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from plane_world import look_at, write_scene
from workbench import Work

import lift3d_cli
from lift3d_cli import FeatureMap, FeatureModel, ModelSpec
from lift3d_cli.cache.renders import Render
from lift3d_cli.errors import ResourceError
from lift3d_cli.pipeline import lift

LENS = {"width": 128, "height": 96, "focal": 120.0}
POSE = look_at((0.1, 0, -4), **LENS)
MEMORY_MIB = 64


class Colors(FeatureModel):
    """Each cell's mean colour, in as many channels as are wanted."""

    spec = ModelSpec(name="colors", channels=512, stride=8, tasks=("features",))

    def encode(self, image: torch.Tensor) -> FeatureMap:
        cells = torch.nn.functional.avg_pool2d(image, 8)
        channels = self.spec.channels
        return FeatureMap(cells.repeat(-(-channels // 3), 1, 1)[:channels], self.grid(image.shape[2], image.shape[1]))


class FewColors(Colors):
    """The same in three."""

    spec = ModelSpec(name="few-colors", channels=3, stride=8, tasks=("features",))


class ManyColors(Colors):
    """The same in more channels than there is memory for at once."""

    spec = ModelSpec(name="many-colors", channels=2048, stride=8, tasks=("features",))


def render(scene: Path, model: str, memory: str, pose=POSE, **settings) -> Render:
    return Work(scene, "", scene).render(
        (pose,),
        scene / f"{model}-{pose.width}-{memory}",
        memory=memory,
        models=(model,),
        views=8,
        planes=8,
        samples=8,
        **settings,
    )


def main(scene: Path, model: str) -> None:
    """Print by how many MiB memory peaks above what this process had before a frame; render it without bound too."""
    render(scene, model, "1GiB", look_at((0, 0, -4), width=16, height=12, focal=15))  # loads what there is to load
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    render(scene, model, f"{MEMORY_MIB}MiB")
    print(json.dumps((_resident("VmHWM") - before) / 1024))  # noqa: T201
    render(scene, model, "4GiB")


def _resident(what: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1])


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    """8 photos, so close to each other that a pose takes all of them."""
    cameras = [look_at((0.1 * (i % 4) - 0.2, 0.1 * (i // 4) - 0.1, -4), **LENS) for i in range(8)]
    root = write_scene(tmp_path_factory.mktemp("memory") / "scene", cameras)
    for model in ("Colors", "FewColors", "ManyColors"):
        Work(root, "", root).encode(f"{__file__}:{model}")
    return root


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of a process is asked of Linux")
@pytest.mark.parametrize("model", ["few-colors", "colors", "many-colors"])
def test_peak_stays_below_the_bound_and_the_frame_is_the_same(scene, model):
    argv = [sys.executable, __file__, str(scene), model]
    # The package too, which may be another one than is installed.
    folders = [Path(__file__).parent, Path(__file__).parents[1], Path(lift3d_cli.__file__).parents[1]]
    path = os.pathsep.join(map(str, folders))
    added = json.loads(subprocess.check_output(argv, text=True, env={**os.environ, "PYTHONPATH": path}))
    # In one chunk, 128 x 96 rays with 6 samples in 8 views each take 400 MiB.
    assert added <= MEMORY_MIB
    small, large = (scene / f"{model}-{POSE.width}-{memory}" for memory in (f"{MEMORY_MIB}MiB", "4GiB"))
    assert len(Render.open(small).read_maps(0).sources) == 8
    renders = [Render.open(folder) for folder in (small, large)]
    for pair in (renders, [render.feature_renders()[0] for render in renders]):
        a, b = (frames.read_frame(0)[0].float() for frames in pair)
        torch.testing.assert_close(a, b, atol=2e-3, rtol=2e-3)


def test_pose_that_cannot_be_held_is_refused_in_one_line(scene):
    with pytest.raises(ResourceError, match=r"^--memory 64MiB: a pose of 960x720 needs .* hint: --memory \d+MiB"):
        render(scene, "colors", "64MiB", look_at((0, 0, -4), width=960, height=720, focal=900))


def test_maps_of_a_refused_pose_are_not_read(scene, monkeypatch):
    read = []
    monkeypatch.setattr(lift, "touched", read.append)
    with pytest.raises(ResourceError):
        render(scene, "colors", "32MiB")
    assert not read
    render(scene, "colors", "300MiB")
    assert len(read) == 8


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
