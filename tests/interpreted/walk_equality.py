"""Run under TRITON_INTERPRET=1 by test_kernels.py: the walk kernel and its twin walk the same paths."""

import os

import pytest
import torch
from walk_cases import SHAPES, case

from gpuion.kernels import lanes, walk

assert os.environ.get("TRITON_INTERPRET") == "1"


@pytest.fixture(autouse=True)
def poison(monkeypatch):
    """Fill new memory with 171 = 0xAB: what is read without being written shows."""
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *args, **kwargs: empty(*args, **kwargs).fill_(171))


@pytest.mark.parametrize(
    ("shape", "walkers", "classes", "blocked"),
    SHAPES,
)
def test_paths_are_equal(shape, walkers, classes, blocked):
    arguments = case(shape, walkers, classes, blocked, seed=shape[1])
    quads = torch.tensor([9, 1, 8][: shape[0]], dtype=torch.int32)
    ids = torch.tensor([2**32 - 1, 0, 17][: shape[0]])
    ours = walk.walk(*arguments, quads, ids, 2**64 - 3, 3)
    twin = lanes.walk(*arguments, quads, ids, 2**64 - 3, 3)
    assert torch.equal(ours[0], twin[0])
    assert torch.equal(ours[1], twin[1])
    assert int(twin[1].sum()) > 0


def test_hops_that_never_fail_are_counted():
    # Every attempt is a hop, 28 between two emptyings of the counts and 8 after the last, around rings of 3, 2 and 1.
    labels, start = torch.zeros(1, 3, 2, 1, dtype=torch.uint8), torch.zeros(1, 64, dtype=torch.int32)
    leave, enter = torch.full((1, 256), 2.0**15), torch.full((1, 256), 2.0**17 * (1 - 2.0**-24))
    quads, ids = torch.tensor([16], dtype=torch.int32), torch.tensor([4])
    ours = walk.walk(labels, leave, enter, start, quads, ids, 1, 2)
    twin = lanes.walk(labels, leave, enter, start, quads, ids, 1, 2)
    assert torch.equal(ours[0], twin[0])
    assert ours[1].tolist() == [[16 * 4 * 2] * 64]


def test_a_structure_walks_alone_as_in_a_batch_in_any_chunks(monkeypatch):
    labels, leave, enter, start = case((3, 4, 6, 5), 40, 3, False, seed=1)
    quads, ids = torch.tensor([6, 2, 4], dtype=torch.int32), torch.tensor([5, 6, 7])
    batch = walk.walk(labels, leave, enter, start, quads, ids, 11, 2)
    alone = walk.walk(labels[1:2], leave[1:2], enter[1:2], start[1:2], quads[1:2], ids[1:2], 11, 2)
    assert torch.equal(batch[0][1:2], alone[0])
    assert torch.equal(batch[1][1:2], alone[1])
    monkeypatch.setattr(walk, "_FIELDS", 1)
    chunked = walk.walk(labels, leave, enter, start, quads, ids, 11, 2)
    assert torch.equal(batch[0], chunked[0])


def test_walks_go_on_and_others_join():
    arguments = case((2, 6, 5, 7), 30, 4, True, seed=2)
    labels, leave, enter, start = arguments
    quads, ids = torch.tensor([3, 5], dtype=torch.int32), torch.tensor([8, 2])
    whole = lanes.walk(*arguments, quads, ids, 3, 4)[0]
    for module in (walk, lanes):
        shape = torch.tensor(labels.shape[1:])
        early = module.walk(*arguments, quads, ids, 3, 2)[0]
        first = torch.stack([start // 35, start // 7 % 5, start % 7], -1)
        at = (first + early[:, -1]) % shape
        stood = ((at[..., 0] * 5 + at[..., 1]) * 7 + at[..., 2]).int()
        late = module.walk(labels, leave, enter, stood, quads, ids, 3, 2, first=2 * quads)[0]
        assert torch.equal(whole, torch.cat([early, early[:, -1:] + late], 1))
        some = module.walk(labels, leave, enter, start[:, 11:], quads, ids, 3, 4, first_walker=11)[0]
        assert torch.equal(whole[:, :, 11:], some)
