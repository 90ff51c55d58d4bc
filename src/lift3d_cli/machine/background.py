"""Input and output on background threads, while the main thread computes.

Reading, decoding, resizing, compressing and writing release the GIL. Torch is for the main thread: OpenMP would start
a second team of threads for another one, and both teams would share the same cores.
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
    """Yield an iterator over `load(item)` of each item, in order; `ahead` items are loaded in advance.

    An error of `load` is raised where its result is used. No thread outlives the context.

    Args:
        items: what to load.
        load: called on other threads, on up to `ahead` items at a time.
        ahead: how many results may be ready.
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
    """A `Later` that calls functions on one background thread, in the order given; used as a context manager.

    An error is raised at the next call, or at the end; functions given later are not called, since a file may imply
    that earlier ones exist. Leaving the context waits for all functions given, even after Ctrl-C.

    Args:
        waiting: how many calls may wait, which bounds their memory; another one waits for the first.
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
    """Read each page of a memory-mapped tensor, so that its first use does not wait for the disk; return the tensor."""
    tensor.view(torch.uint8).numpy().reshape(-1)[:: mmap.PAGESIZE].max()
    return tensor
