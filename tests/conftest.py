"""Tests marked `gpu` are skipped where there is none; property tests draw the same examples every time.

Tests that ask for `real` run twice: on a GPU, and without one at a tiny size on a pretended one.
"""

from collections import Counter

import pytest
import torch
from cells import SIGMA
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def pytest_terminal_summary(terminalreporter):
    """Tell why tests were skipped, a line a reason: pytest's own -rs has one a file."""
    reasons = Counter(report.longrepr[2] for report in terminalreporter.stats.get("skipped", []))
    for reason, number in reasons.most_common():
        terminalreporter.write_line(f"skipped {number}: {reason.removeprefix('Skipped: ')}")


@pytest.fixture
def single_thread():
    """Small tensors: threads cost more than they give, most of all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=[pytest.param("cuda", marks=pytest.mark.gpu), "rehearsal"])
def real(request):
    """Whether the GPU is a real one; sizes depend on it."""
    if request.param == "cuda":
        yield True
    else:
        from rehearsal import rehearse

        with rehearse():
            yield False


@pytest.fixture
def cell(real):
    """Box, diameter and number of spheres."""
    return {"box": 75.0, "diameter": SIGMA, "n": 91} if real else {"box": 15.0, "diameter": 6.0, "n": 3}
