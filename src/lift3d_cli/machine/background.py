"""Input and output on threads of their own, while the main thread computes.

Reading, decoding, resizing, compressing and writing let other threads run. Torch is for the main thread: OpenMP would
give another one a team of threads of its own, and both teams the same cores.
"""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

S = TypeVar("S")
T = TypeVar("T")


@contextmanager
def prefetched(items: Iterable[S], load: Callable[[S], T], ahead: int = 1) -> Iterator[Iterator[T]]:
    """Gives an iterator over `load(item)` of each item, in order; `ahead` of them are loaded before they are asked for.

    An error of `load` is raised where its result is asked for. No thread outlives the context.

    Args:
        items: what to load.
        load: called on other threads, on up to `ahead` items at a time.
        ahead: how many results may lie ready.
    """
    pool = ThreadPoolExecutor(ahead, "lift3d-reader")

    def results() -> Iterator[T]:
        loading: deque[Future[T]] = deque()
        for item in items:
            loading.append(pool.submit(load, item))
            if len(loading) > ahead:
                yield loading.popleft().result()
        while loading:
            yield loading.popleft().result()

    try:
        yield results()
    finally:
        pool.shutdown(cancel_futures=True)


class BackgroundWriter:
    """A `Later` that calls functions on one other thread, in the order given; to be used as a context.

    An error is raised where the next function is given, or at the end; what was given after it is not called, since a
    file may say that those before it are there. Leaving the context waits for all that was given, after Ctrl-C too.

    Args:
        waiting: how many may wait, which bounds the memory that they hold; giving one more waits for the first.
    """

    def __init__(self, waiting: int = 4) -> None:
        self._pool = ThreadPoolExecutor(1, "lift3d-writer")
        self._waiting = waiting
        self._given: deque[Future[None]] = deque()
        self._has_failed = False

    def __call__(self, function: Callable[..., object], *args: object) -> None:
        while self._given and (self._given[0].done() or len(self._given) > self._waiting):
            self._given.popleft().result()
        self._given.append(self._pool.submit(self._run, function, *args))

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown()
        if error_type is None:
            for done in self._given:
                done.result()

    def _run(self, function: Callable[..., object], *args: object) -> None:
        if self._has_failed:
            return
        try:
            function(*args)
        except BaseException:
            self._has_failed = True
            raise


def touched(tensor: torch.Tensor) -> torch.Tensor:
    """A memory-mapped tensor, each page of it read: without this, the one who first uses a value waits for the disk."""
    tensor.view(torch.uint8).numpy().reshape(-1)[:: mmap.PAGESIZE].max()
    return tensor
