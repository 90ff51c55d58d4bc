"""The training loop that all networks share: steps, checkpoints, held-out scores, learning curves.

A run is a folder: `checkpoint.safetensors` (network, optimizer and step), `curves.csv` and `curves.png`. The random
numbers of a step depend only on the seed and the step's number, so a run that is interrupted and resumed is the same
run. The exceptions are batched tasks and schedules in minutes: they continue the schedule with other examples.
"""

from __future__ import annotations

import ctypes
import math
import random
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from lift3d_cli.config import TrainConfig
from lift3d_cli.errors import ModelError
from lift3d_cli.machine.atomic import write_atomic
from lift3d_cli.machine.parallel import mapped
from lift3d_cli.machine.progress import Progress, no_progress
from lift3d_cli.training.curves import CURVES, append_curves

# Parts of the progress bar where the schedule is in minutes.
_PARTS_OF_TIME = 1000
# Scores and shipped weights use the average over about the last 500 steps: single steps overfit to one example.
_AVERAGE_DECAY = 0.998
_SAVE_EVERY_S = 120
# From malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
CHECKPOINT = "checkpoint.safetensors"
FROZEN_FROM = 0.5
"""Share of a training after which BatchNorm is frozen, see `set_training`."""


class TrainingTask(ABC):
    """A network to train, with its loss and held-out scores."""

    network: nn.Module
    """The whole network; parameters that are not trained require no gradient."""
    is_batched = False
    """True where a loss covers a batch of examples, so that each step takes one loss."""
    warm_up_steps = 100
    """Over which the learning rate grows to its highest."""
    rates: Mapping[str, float] = {}
    """Parts of the network, by the first word of their weights' names, that learn so many times as fast."""
    score_every_s = 0.0
    """Seconds from one score to the next; 0 to go by the config's steps."""

    @abstractmethod
    def loss(self, rng: random.Random, step: int) -> Tensor:
        """Return the loss of one random example, which depends only on the arguments; NaN skips the example.

        With several examples per step it runs in threads; then random numbers must come from `rng`, not from torch.
        """

    @abstractmethod
    def scores(self) -> Mapping[str, float]:
        """Return scores on held-out data."""

    def close(self) -> None:  # noqa: B027
        """Stop background threads and processes."""


def set_training(network: nn.Module, step: int, steps: int) -> None:
    """Set a network to training mode, with BatchNorm frozen from the middle of `steps` on.

    The statistics of one batch are not those of the whole data set.
    """
    network.train()
    if step >= FROZEN_FROM * steps:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()


def keep_freed_memory() -> None:
    """Make this process keep the memory that it frees, if its C library (glibc) can.

    Each step allocates and frees the same large tensors. By default the kernel takes their pages back and hands out
    new, zeroed ones each time, which takes a tenth of the time of a training on a CPU.
    """
    with suppress(OSError, AttributeError):  # only glibc has it
        mallopt = ctypes.CDLL(None).mallopt
        for parameter in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
            mallopt(parameter, 2**30)


class TrainingRun:
    """The state of a training: step, time, optimizer and averaged weights.

    Args:
        config: settings.
        task: the training task.
    """

    def __init__(self, config: TrainConfig, task: TrainingTask) -> None:
        self.config = config
        self.task = task
        self.step = 0
        self._seconds = 0.0
        self._started = time.monotonic()
        self._parameters = {n: p for n, p in task.network.named_parameters() if p.requires_grad}
        self._average = {name: p.detach().clone() for name, p in self._parameters.items()}
        times = {name: task.rates.get(name.split(".")[0], 1.0) for name in self._parameters}
        groups = [
            {"params": [self._parameters[n] for n in times if times[n] == t], "times": t} for t in {*times.values()}
        ]
        self._optimizer = torch.optim.AdamW(groups, config.learning_rate, weight_decay=1e-4)
        if config.resume and (config.run / CHECKPOINT).exists():
            self._load()

    @property
    def seconds(self) -> float:
        """Seconds since the training began, without the time between an interruption and its resumption."""
        return self._seconds + time.monotonic() - self._started

    @property
    def done(self) -> float:
        """Share of the schedule that is over, 0 to 1: by the clock, if it is in minutes."""
        part = self.seconds / (60 * self.config.minutes) if self.config.minutes else self.step / self.config.steps
        return min(1.0, part)

    def advance(self) -> float:
        """Do one step; return the loss, or NaN where no example had a finite one."""
        rate = min(1.0, (self.step + 1) / self.task.warm_up_steps)
        rate *= 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * self.done))
        for group in self._optimizer.param_groups:
            group["lr"] = self.config.learning_rate * rate * group["times"]
        losses, gradients = zip(*self._examples(), strict=True)
        self.step += 1
        learned = [gradient for gradient in gradients if gradient is not None]
        if not learned:
            return math.nan
        for parameter, *of_examples in zip(self._parameters.values(), *learned, strict=True):
            parameter.grad = torch.stack(of_examples).mean(0)
        torch.nn.utils.clip_grad_norm_(self._parameters.values(), 1.0)
        self._optimizer.step()
        share = max(1 - _AVERAGE_DECAY, 10 / (self.step + 10))  # at most the last tenth of a short run
        for name, parameter in self._parameters.items():
            self._average[name].lerp_(parameter.detach(), share)
        return statistics.fmean(loss for loss in losses if math.isfinite(loss))

    def _examples(self) -> Iterator[tuple[float, Sequence[Tensor] | None]]:
        """Compute loss and gradients of each of the step's examples; on a CPU, in parallel on its cores."""
        examples = range(1 if self.task.is_batched else self.config.batch)
        if len(examples) == 1:
            return map(self._gradients, examples)
        return mapped(self._gradients, examples, next(iter(self._parameters.values())).device)

    def _gradients(self, example: int) -> tuple[float, Sequence[Tensor] | None]:
        rng = random.Random(f"{self.config.seed}/{self.step}" + f"/{example}" * bool(example))
        torch.manual_seed(rng.getrandbits(32))
        with torch.enable_grad():
            loss = self.task.loss(rng, self.step)
        if not torch.isfinite(loss):
            return math.nan, None
        found = torch.autograd.grad(loss, list(self._parameters.values()), allow_unused=True, materialize_grads=True)
        return float(loss.detach()), found

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Give the network its average weights inside the `with` block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def finish(self) -> None:
        """Give the network its average weights permanently."""
        self._swap()

    def _swap(self) -> None:
        for name, parameter in self._parameters.items():
            parameter.data, self._average[name] = self._average[name], parameter.data

    def save(self) -> None:
        """Write the checkpoint atomically."""
        tensors = {f"network.{name}": t for name, t in self.task.network.state_dict().items()}
        tensors |= {f"average.{name}": tensor for name, tensor in self._average.items()}
        for name, parameter in self._parameters.items():
            for key, value in self._optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{key}.{name}"] = torch.as_tensor(value)
        tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        facts = {"step": str(self.step), "seconds": f"{self.seconds:.3f}"}
        write_atomic(self.config.run / CHECKPOINT, safetensors.torch.save(tensors, facts))

    def _load(self) -> None:
        path = self.config.run / CHECKPOINT
        try:
            with safetensors.safe_open(path, "pt") as file:
                facts = file.metadata()
                self.step = int(facts["step"])
                self._seconds = float(facts.get("seconds", 0))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            prefix = "network."
            state = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            self.task.network.load_state_dict(state)
        except (safetensors.SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as e:
            raise ModelError(f"{path}: not a checkpoint of this training. hint: another --run") from e
        for name, parameter in self._parameters.items():
            # Checkpoints of earlier versions have no average.
            self._average[name] = tensors.get(f"average.{name}", parameter.detach()).to(parameter.device).clone()
            keys = ("step", "exp_avg", "exp_avg_sq")
            state = {key: tensors.get(f"optimizer.{key}.{name}") for key in keys}
            if all(value is not None for value in state.values()):
                moments = {key: state[key].to(parameter.device) for key in keys[1:]}
                self._optimizer.state[parameter] = {"step": state["step"], **moments}


def train(config: TrainConfig, task: TrainingTask, progress: Progress = no_progress) -> Iterable[dict[str, float]]:
    """Train to the last step; yield a row of the learning curves at each evaluation.

    Finally the network has its average weights.

    Raises:
        ModelError: if the run's checkpoint belongs to another training.
    """
    keep_freed_memory()
    run = TrainingRun(config, task)
    losses, saved, scored = [], run.seconds, run.seconds
    end = run.seconds + 60 * (config.stop_after or math.inf)
    parts = _PARTS_OF_TIME if config.minutes else config.steps
    first = min(parts, math.floor(run.done * parts + 1e-6))
    for part in progress(range(first, parts), f"train {config.part}", parts - first):
        while run.done * parts < part + 1 - 1e-6 and run.seconds < end:
            losses.append(run.advance())
            every_s = task.score_every_s
            is_due = run.seconds >= scored + every_s if every_s else run.step % config.evaluate_every == 0
            if is_due or run.seconds > saved + _SAVE_EVERY_S:
                run.save()
                saved = run.seconds
            if is_due:
                yield _evaluated(run, losses)
                losses, scored = [], run.seconds
    if losses:
        run.save()
        yield _evaluated(run, losses)
    run.finish()


def _evaluated(run: TrainingRun, losses: Sequence[float]) -> dict[str, float]:
    """Evaluate the network; return a row of the learning curves, which is also written to their file."""
    finite = [loss for loss in losses if math.isfinite(loss)]
    row = {"step": run.step, "minutes": run.seconds / 60, "loss": sum(finite) / max(len(finite), 1)}
    with run.averaged():
        row |= run.task.scores()
    append_curves(run.config.run / CURVES, row)
    return row


def scores_of(row: Mapping[str, float]) -> dict[str, float]:
    """Pick the task's scores from a row of the learning curves, to four digits."""
    return {name: round(value, 4) for name, value in row.items() if name not in ("step", "minutes", "loss")}
