"""`benchmarks/scaling.py` grows what it says it grows, and calls linear what is."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from lift3d_cli.cache.renders import Render

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def scaling():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import scaling

        yield scaling
    sys.modules.pop("scaling", None)


def points(*seconds: float) -> list[dict[str, float]]:
    """A measurement at n = 10, 20, 40, ..., each in a gibibyte."""
    return [{"n": 10 * 2**i, "seconds": s, "bytes": 2**30} for i, s in enumerate(seconds)]


@pytest.mark.parametrize(
    ("seconds", "exponent", "verdict"),
    [
        ((3, 6, 12, 24), 1, "linear or better"),
        ((5, 5, 5, 5), 0, "linear or better"),
        ((3, 12, 48, 192), 2, "worse than linear"),
        ((3, 3, 3, 12), 2, "worse than linear"),  # what is fixed hides it from the line through all
    ],
)
def test_exponent_is_that_of_the_power_and_of_the_end(scaling, seconds, exponent, verdict):
    assert scaling.exponent(points(*seconds), "seconds") == pytest.approx(exponent)
    table = scaling.markdown("poses", points(*seconds))
    assert verdict in table
    assert f"| exponent | {exponent:.2f} | 0.00 |" in table
    assert "| 80 | " + scaling.measuring.milliseconds(seconds[-1]) + " | 1,024 |" in table


def test_memory_that_grows_too_fast_is_said_too(scaling):
    grown = [{"n": n, "seconds": n, "bytes": n**2} for n in (1, 2, 4)]
    assert "worse than linear" in scaling.markdown("poses", grown)


@pytest.mark.parametrize("views", [2, 16])
def test_pose_takes_as_many_photos_and_channels_as_the_job_says(scaling, tmp_path, views):
    job = scaling.JobSize(photos=views, views=views, channels=5, width=32)
    bench = scaling.JobFolder(job, tmp_path, "cpu", "1GiB")
    bench.encode()
    render = Render.open(bench.render())
    assert len(render.read_maps(0).sources) == views
    (features,) = render.feature_renders()
    assert features.read_frame(0)[0].shape == (5, 3, 4)


def test_jobs_of_an_axis_differ_in_nothing_else(scaling):
    for axis in scaling.AXES.values():
        assert len(axis.values) >= 3
        jobs = [vars(axis.job(n)) for n in axis.values]
        grown = {name for name in jobs[0] if len({job[name] for job in jobs}) > 1}
        assert grown in ({"photos"}, {"poses"}, {"channels"}, {"width"}, {"photos", "views"})
    sizes = [
        (job.width * (3 * job.width // 4), n)
        for n in scaling.AXES["resolution"].values
        for job in [scaling.AXES["resolution"].job(n)]
    ]
    assert all(pixels == n for pixels, n in sizes)


def test_preparing_makes_no_frame_and_each_run_is_a_new_one(scaling, tmp_path):
    bench = scaling.JobFolder(scaling.JobSize(photos=3, poses=4, width=32), tmp_path, "cpu", "1GiB")
    bench.encode()
    for _ in range(2):
        bench.plan()
    renders = [Render.open(manifest.parent) for manifest in tmp_path.glob("run-*/manifest.json")]
    assert [render.missing() for render in renders] == [[0, 1, 2, 3]] * 2


@pytest.mark.slow
def test_it_prints_every_point_of_an_axis(scaling, monkeypatch, tmp_path, capsys):
    plot = tmp_path / "scaling.svg"
    argv = ["scaling.py", "--quick", "--axis", "frames", "--rounds", "1", "--json", "--plot", str(plot)]
    monkeypatch.setattr(sys, "argv", argv)
    scaling.main()
    found = json.loads(capsys.readouterr().out)["axes"]["frames"]
    assert [point["n"] for point in found] == list(scaling.AXES["frames"].quick)
    assert all(point["seconds"] > 0 and point["bytes"] > 0 for point in found)
    assert "render and decode" in plot.read_text()
