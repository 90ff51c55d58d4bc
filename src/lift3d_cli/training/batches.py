"""Batches of training examples that agree in their shapes, put together while the batch before is learned from."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from lift3d_cli.training.renderer_data import VIEW_CLASSES, CropSize, Draw, Example, assemble

# Batches hold as much as so many crops from 8 photos with 48 planes.
_USUAL_VIEWS, _USUAL_PLANES = 8, 48


class Batches:
    """Batches of examples that agree in their shapes; threads draw them and put the next one together meanwhile.

    Examples wait in a bucket of their numbers of planes and sources, step and knowledge of depth, until it has enough.

    Args:
        draw: of a number, the example with that number, and whether it is procedural.
        crops: a batch holds as much as so many crops from 8 photos with 48 planes.
        size: of the crops.
        device: where to.
        first: number to begin with.
        workers: threads.
    """

    def __init__(
        self,
        draw: Callable[[int], Draw],
        crops: int,
        size: CropSize,
        device: torch.device,
        first: int = 0,
        workers: int = 4,
    ) -> None:
        self._draw, self._crops, self._size, self._device = draw, crops, size, device
        self._numbers = itertools.count(first)
        self._pool = ThreadPoolExecutor(workers, "lift3d-draw")
        self._assembler = ThreadPoolExecutor(1, "lift3d-batch")
        self._ahead: deque[Future[Draw]] = deque()
        self._buckets: dict[tuple[int, ...], list[Draw]] = defaultdict(list)
        self._next = self._assembler.submit(self._assemble)

    def next(self) -> Example:
        """The next batch."""
        example = self._next.result()
        self._next = self._assembler.submit(self._assemble)
        return example

    def _assemble(self) -> Example:
        while True:
            while len(self._ahead) < 8 * self._crops:
                self._ahead.append(self._pool.submit(self._draw, next(self._numbers)))
            draw = self._ahead.popleft().result()
            num_views = next(n for n in VIEW_CLASSES if n >= len(draw.sources))
            # Exact depth is known of a whole batch or of none of it.
            key = (num_views, draw.num_planes, draw.step, draw.has_depth)
            bucket = self._buckets[key]
            bucket.append(draw)
            # Stage II takes memory by photos, Stage I by planes too.
            room = self._crops * _USUAL_VIEWS / num_views * min(1.0, _USUAL_PLANES / draw.num_planes)
            if len(bucket) >= max(1, round(room)):
                del self._buckets[key]
                return assemble(bucket, self._size, num_views, random.Random(next(self._numbers)), self._device)

    def close(self) -> None:
        """End the threads."""
        self._assembler.shutdown(wait=True, cancel_futures=True)
        self._pool.shutdown(wait=False, cancel_futures=True)
