"""The walk kernel on a GPU, beside its twin on a CPU: the same paths, bit for bit."""

import pytest
import torch
from cells import spheres
from walk_cases import SHAPES, case

import gpuion
from gpuion import hops
from gpuion.kernels import lanes

pytestmark = pytest.mark.gpu


def both(arguments, **options):
    """Return paths and hops of the kernel, brought to the CPU, and of the twin."""
    from gpuion.kernels import walk

    there = [x.cuda() if isinstance(x, torch.Tensor) else x for x in arguments]
    moved = {name: x.cuda() if isinstance(x, torch.Tensor) else x for name, x in options.items()}
    ours = walk.walk(*there, **moved)
    assert ours[0].is_cuda
    return [x.cpu() for x in ours], lanes.walk(*arguments, **options)


def check(arguments, **options):
    ours, twin = both(arguments, **options)
    assert torch.equal(ours[0], twin[0])
    assert torch.equal(ours[1], twin[1])
    assert int(twin[1].sum()) > 0


@pytest.mark.parametrize(
    ("shape", "walkers", "classes", "blocked"),
    [
        *SHAPES,
        ((2, 75, 75, 75), 5000, 256, True),
        ((1, 1, 2, 2048), 300, 5, False),  # addresses beyond 2³¹
        ((4, 150, 20, 31), 1, 3, False),
    ],
)
def test_paths_are_equal(shape, walkers, classes, blocked):
    quads = torch.tensor([150, 1, 8, 64][: shape[0]], dtype=torch.int32)
    ids = torch.tensor([2**32 - 1, 0, 17, 2**31][: shape[0]])
    check((*case(shape, walkers, classes, blocked, seed=shape[1]), quads, ids, 2**64 - 3, 3))


def test_walks_go_on_and_others_join():
    arguments = case((3, 9, 8, 7), 500, 6, False, seed=4)
    quads, ids = torch.tensor([30, 7, 1], dtype=torch.int32), torch.tensor([3, 1, 2])
    first = torch.tensor([600, 0, 2**29], dtype=torch.int32)
    check((*arguments, quads, ids, 5, 1), first=first, first_walker=10_000)


def test_a_batch_in_chunks(monkeypatch):
    from gpuion.kernels import walk

    arguments = (*case((5, 6, 5, 4), 300, 4, True, seed=2), torch.full((5,), 40, dtype=torch.int32), torch.arange(5))
    whole = both((*arguments, 1, 2))[0]
    monkeypatch.setattr(walk, "_FIELDS", 1)
    chunked = both((*arguments, 1, 2))[0]
    assert torch.equal(whole[0], chunked[0])
    assert torch.equal(whole[1], chunked[1])


def test_rates_and_starts_are_equal_on_both():
    cell = {"box": 75.0, "diameter": gpuion.sphere_diameter(91, 75.0, 0.1), "n": 91}
    medium = gpuion.electrolyte(spheres(cell, 2), box=75.0, diameter=cell["diameter"])
    there = medium.to("cuda")
    for here, found in zip(vars(hops.rates(medium)).values(), vars(hops.rates(there)).values(), strict=True):
        assert torch.equal(here, found.cpu())
    ids = torch.tensor([7, 2**32 - 1])
    expected = hops.starts(medium, 5000, 2**64 - 1, ids)
    assert torch.equal(hops.starts(there, 5000, 2**64 - 1, ids.cuda()).cpu(), expected)
    expected = gpuion.walk(medium, walkers=2000, time=300.0, seed=3)
    found = gpuion.walk(there, walkers=2000, time=300.0, seed=3)
    assert torch.equal(found.hops.cpu(), expected.hops)
    assert torch.allclose(found.diffusivity.cpu(), expected.diffusivity, rtol=1e-12)  # float64 sums in another order
