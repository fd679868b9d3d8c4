"""Threads: one where torch would share work too small to be shared, some that share the planes of a lattice.

Letters: X planes of a lattice.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch


@contextlib.contextmanager
def one_thread(when: bool = True) -> Iterator[None]:
    """Let torch compute on one thread of a CPU, or leave it as it is."""
    threads = torch.get_num_threads()
    if not when or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Team:
    """Threads that share scalar loops over a lattice, part by part; parts do not depend on how many there are.

    A loop waits some 35 µs for its threads.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.pool = ThreadPoolExecutor(max(1, threads - 1))  # starts none before there is work

    def __enter__(self) -> "Team":
        return self

    def __exit__(self, *error: object) -> None:
        self.pool.shutdown()

    def each(self, X: int, kernel: Callable[..., Any], *arguments: Any) -> None:
        """Run a kernel on all parts of X planes, and wait."""
        first, *rest = _shares(X, self.threads)
        others = [self.pool.submit(kernel, *arguments, *share) for share in rest]
        kernel(*arguments, *first)
        for other in others:
            other.result()


@functools.cache
def _shares(X: int, threads: int) -> list[tuple[int, int]]:
    """Return the parts of X planes that each thread takes, the first and the one past its last."""
    from gpuion.kernels.levels import parts_of

    parts = parts_of(X)
    threads = min(threads, parts)
    cuts = [n * parts // threads for n in range(threads + 1)]
    return list(itertools.pairwise(cuts))
