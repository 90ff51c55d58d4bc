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
    """Batches of examples of equal shapes; threads draw examples and assemble the next batch in the background.

    Examples wait in a bucket for their numbers of planes and sources, step and knowledge of depth, until it is full.

    Args:
        draw: makes the draw with a given number.
        crops: size of a batch, in crops with 8 photos and 48 planes.
        size: size of the crops.
        device: device of the batches.
        first: number of the first draw.
        workers: number of threads.
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
        self._draw = draw
        self._crops = crops
        self._size = size
        self._device = device
        self._numbers = itertools.count(first)
        self._pool = ThreadPoolExecutor(workers, "lift3d-draw")
        self._assembler = ThreadPoolExecutor(1, "lift3d-batch")
        self._ahead: deque[Future[Draw]] = deque()
        # On the stream that learns, a batch would be put together only once the step before it is over. What it holds
        # is kept until two later ones are taken: by then, all that was computed from it is.
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._taken: deque[Example] = deque(maxlen=3)
        self._buckets: dict[tuple[int, ...], list[Draw]] = defaultdict(list)
        self._next = self._assembler.submit(self._assemble)

    def next(self) -> Example:
        """Return the next batch."""
        example = self._next.result()
        self._taken.append(example)
        self._next = self._assembler.submit(self._assemble)
        return example

    def _assemble(self) -> Example:
        with torch.cuda.stream(self._stream):  # does nothing where there is none
            example = self._gather()
        if self._stream is not None:
            self._stream.synchronize()
        return example

    def _gather(self) -> Example:
        while True:
            while len(self._ahead) < 8 * self._crops:
                self._ahead.append(self._pool.submit(self._draw, next(self._numbers)))
            draw = self._ahead.popleft().result()
            num_views = next(n for n in VIEW_CLASSES if n >= len(draw.sources))
            # A batch has exact depth for all of its examples or for none.
            key = (num_views, draw.num_planes, draw.step, draw.has_depth)
            bucket = self._buckets[key]
            bucket.append(draw)
            # Stage II's memory grows with the photos, Stage I's with the planes too.
            room = self._crops * _USUAL_VIEWS / num_views * min(1.0, _USUAL_PLANES / draw.num_planes)
            if len(bucket) >= max(1, round(room)):
                del self._buckets[key]
                return assemble(bucket, self._size, num_views, random.Random(next(self._numbers)), self._device)

    def close(self) -> None:
        """Stop the threads."""
        self._assembler.shutdown(wait=True, cancel_futures=True)
        self._pool.shutdown(wait=False, cancel_futures=True)
