"""The training loop: the same run whether interrupted or not, and curves that say how it went."""

from __future__ import annotations

import functools
import math
import random

import pytest
import safetensors.torch
import torch
from torch import nn

from lift3d_cli.config import TrainConfig
from lift3d_cli.errors import ModelError
from lift3d_cli.lifting.precision import MixedPrecision, in_precision
from lift3d_cli.machine.parallel import mapped
from lift3d_cli.training import loop
from lift3d_cli.training.curves import CURVES, read_curves


class Line(loop.TrainingTask):
    """Fits a line through the points of another."""

    def __init__(self, nan_at: int = -1) -> None:
        torch.manual_seed(0)
        self.network = nn.Linear(2, 1)
        self.nan_at = nan_at

    def loss(self, rng: random.Random, step: int) -> torch.Tensor:
        if step == self.nan_at:
            return self.network.weight.sum() * math.nan
        point = torch.tensor([rng.random(), torch.rand(()).item()])
        return (self.network(point) - point @ torch.tensor([2.0, -1.0])).square().mean()

    def scores(self) -> dict[str, float]:
        return {"slope": float(self.network.weight[0, 0].detach())}


def settings(run, **other) -> TrainConfig:
    return TrainConfig(run=run, **({"steps": 6, "evaluate_every": 3, "learning_rate": 0.1} | other))


def weights_of(task: Line) -> torch.Tensor:
    return task.network.weight.detach().clone()


def test_an_interrupted_and_resumed_run_is_the_run_that_went_on(tmp_path):
    whole = Line()
    list(loop.train(settings(tmp_path / "whole"), whole))
    first = loop.train(settings(tmp_path / "cut"), Line())
    assert next(iter(first))["step"] == 3  # and no more
    rest = Line()
    rows = list(loop.train(settings(tmp_path / "cut", resume=True), rest))
    assert [row["step"] for row in rows] == [6]
    assert torch.equal(weights_of(rest), weights_of(whole))


class Clock:
    """A clock on which every step takes a second."""

    def __init__(self, monkeypatch) -> None:
        self.now, advance = 0.0, loop.TrainingRun.advance
        self.rates: list[float] = []

        def ticking(run: loop.TrainingRun) -> float:
            loss = advance(run)
            self.rates.append(run._optimizer.param_groups[0]["lr"])
            self.now += 1
            return loss

        monkeypatch.setattr(loop.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(loop.TrainingRun, "advance", ticking)


def test_a_schedule_in_minutes_is_over_when_they_are(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    rows = list(loop.train(settings(tmp_path, minutes=3, evaluate_every=1000), Line()))
    assert clock.now == rows[-1]["step"] == 180
    assert rows[-1]["minutes"] == 3
    assert clock.rates[-1] < 0.03 * settings(tmp_path).learning_rate


@pytest.mark.parametrize("stop_after", [1.5, 2.0])
def test_a_run_that_was_stopped_and_resumed_follows_the_same_schedule(tmp_path, monkeypatch, stop_after):
    clock, whole, both = Clock(monkeypatch), Line(), Line()
    schedule = {"minutes": 3, "evaluate_every": 100}
    list(loop.train(settings(tmp_path / "whole", **schedule), whole))
    want, clock.rates = clock.rates, []
    list(loop.train(settings(tmp_path / "cut", **schedule, stop_after=stop_after), Line()))
    assert len(clock.rates) == 60 * stop_after
    clock.now += 1000  # what lies between the two does not count
    list(loop.train(settings(tmp_path / "cut", **schedule, stop_after=3 - stop_after, resume=True), both))
    assert clock.rates == pytest.approx(want)
    assert torch.allclose(weights_of(both), weights_of(whole))


def test_checkpoint_is_written_every_two_minutes(tmp_path, monkeypatch):
    Clock(monkeypatch)
    saved, save = [], loop.TrainingRun.save
    monkeypatch.setattr(loop.TrainingRun, "save", lambda run: (saved.append(run.seconds), save(run)))
    list(loop.train(settings(tmp_path, minutes=7, evaluate_every=10**6), Line()))
    assert saved == [121, 242, 363, 420]


def test_another_seed_is_another_run(tmp_path):
    one, other = Line(), Line()
    list(loop.train(settings(tmp_path / "a"), one))
    list(loop.train(settings(tmp_path / "b", seed=1), other))
    assert not torch.equal(weights_of(one), weights_of(other))


def test_it_learns(tmp_path):
    task = Line()
    list(loop.train(settings(tmp_path, steps=400, evaluate_every=400), task))
    torch.testing.assert_close(weights_of(task)[0], torch.tensor([2.0, -1.0]), atol=0.2, rtol=0)


def test_curves_have_a_row_for_each_evaluation_also_after_a_resume(tmp_path):
    next(iter(loop.train(settings(tmp_path), Line())))
    list(loop.train(settings(tmp_path, resume=True), Line()))
    rows = read_curves(tmp_path / CURVES)
    assert [row["step"] for row in rows] == [3, 6]
    assert set(rows[0]) == {"step", "minutes", "loss", "slope"}


def test_curves_are_drawn(tmp_path):
    pytest.importorskip("matplotlib", reason="needs matplotlib, of the extra train")
    list(loop.train(settings(tmp_path), Line()))
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_step_whose_loss_is_not_finite_changes_nothing(tmp_path):
    task = Line(nan_at=0)
    run = loop.TrainingRun(settings(tmp_path), task)
    before = weights_of(task)
    assert math.isnan(run.advance())
    assert run.step == 1
    assert torch.equal(weights_of(task), before)
    assert math.isfinite(run.advance())


@pytest.mark.parametrize("threads", [1, 2])
def test_step_of_several_examples_follows_the_mean_of_their_gradients(tmp_path, monkeypatch, threads):
    class Seeded(Line):
        def loss(self, rng: random.Random, step: int) -> torch.Tensor:
            point = torch.tensor([rng.random(), rng.random()])
            return 0.01 * (self.network(point) - point.sum()).square().mean()  # short, as long gradients are clipped

    monkeypatch.setattr(loop, "mapped", functools.partial(_mapped_by, threads))
    task = Seeded()
    seeded = [random.Random(seed) for seed in ("0/0", "0/0/1", "0/0/2")]
    losses = [task.loss(rng, rng.getrandbits(32)) for rng in seeded]  # the first number is torch's seed
    want = torch.autograd.grad(sum(losses) / 3, list(task.network.parameters()))
    loss = loop.TrainingRun(settings(tmp_path, batch=3), task).advance()
    assert loss == pytest.approx(sum(float(loss.detach()) for loss in losses) / 3)
    for parameter, gradient in zip(task.network.parameters(), want, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def _mapped_by(threads: int, *arguments):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return list(mapped(*arguments))
    finally:
        torch.set_num_threads(before)


def test_example_whose_loss_is_not_finite_does_not_count(tmp_path):
    class HalfNan(Line):
        def loss(self, rng: random.Random, step: int) -> torch.Tensor:
            self.calls = getattr(self, "calls", 0) + 1
            return self.network.weight.sum() * (math.nan if self.calls == 1 else 1)

    task = HalfNan()
    loss = loop.TrainingRun(settings(tmp_path, batch=2), task).advance()
    assert math.isfinite(loss)
    assert torch.isfinite(weights_of(task)).all()


@pytest.mark.parametrize("content", [b"nonsense", safetensors.torch.save({"network.other": torch.zeros(1)})])
def test_foreign_checkpoint_is_refused_in_one_line(tmp_path, content):
    (tmp_path / loop.CHECKPOINT).write_bytes(content)
    with pytest.raises(ModelError, match="not a checkpoint of this training"):
        loop.TrainingRun(settings(tmp_path, resume=True), Line())


class Halving(MixedPrecision):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    @in_precision
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def test_module_in_bfloat16_gives_and_learns_nearly_the_same_in_float32():
    torch.manual_seed(0)
    plain, half = Halving(), Halving()
    half.load_state_dict(plain.state_dict())
    half.precision = "bf16"
    x = torch.randn(5, 8)
    out = half(x)
    assert out.dtype == torch.float32
    assert not torch.equal(out, plain(x))
    torch.testing.assert_close(out, plain(x), atol=0.03, rtol=0.03)
    out.square().sum().backward()
    assert half.layer.weight.grad.abs().sum() > 0


def test_scored_and_left_in_the_end_is_the_average_of_the_steps(tmp_path):
    task = Line()
    run = loop.TrainingRun(settings(tmp_path, steps=200), task)
    seen = []
    for _ in range(60):
        run.advance()
        seen.append(weights_of(task))
    last = weights_of(task)
    with run.averaged():
        average = weights_of(task)
    assert torch.equal(weights_of(task), last)
    low, high = torch.stack(seen).amin(0), torch.stack(seen).amax(0)
    assert ((average > low) & (average < high)).all()
    run.finish()
    assert torch.equal(weights_of(task), average)


def test_part_with_a_rate_of_its_own_learns_so_many_times_as_fast(tmp_path):
    class Hurried(Line):
        warm_up_steps = 1
        rates = {"bias": 4.0}  # noqa: RUF012

    moved = []
    for task in (Line(), Hurried()):
        task.warm_up_steps = 1
        before = {name: parameter.detach().clone() for name, parameter in task.network.named_parameters()}
        loop.TrainingRun(settings(tmp_path), task).advance()
        moved.append({name: (p - before[name]).abs().max() for name, p in task.network.named_parameters()})
    assert float(moved[1]["bias"] / moved[0]["bias"]) == pytest.approx(4, rel=1e-3)
    assert float(moved[1]["weight"] / moved[0]["weight"]) == pytest.approx(1, rel=1e-3)


def test_scores_go_by_the_clock_where_the_task_says_so(tmp_path, monkeypatch):
    Clock(monkeypatch)
    task = Line()
    task.score_every_s = 50
    rows = list(loop.train(settings(tmp_path, minutes=3), task))
    assert [row["step"] for row in rows] == [50, 100, 150, 180]
