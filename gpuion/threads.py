"""One thread where torch would share work too small to be shared."""

import contextlib
from collections.abc import Iterator

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
