"""The walk in lanes against the same rule written as plainly as it can be said."""

import platform
import re

import numba
import numpy as np
import pytest
import torch

import gpuion
from gpuion.kernels import lanes
from gpuion.kernels.reference import Stream, philox


def plain_walk(labels, leave, enter, start, quads, ids, seed, checkpoints):
    """One structure, one walker after another, one attempt after another."""
    B, *shape = labels.shape
    displacement = np.zeros((B, checkpoints, start.shape[1], 3), np.int32)
    hops = np.zeros(start.shape, np.int32)
    for b, w in np.ndindex(*start.shape):
        n = int(quads[b])
        calls = torch.arange(checkpoints * n)
        words = torch.stack(philox(seed, calls, w, int(ids[b]), Stream.WALK_HOP), -1).flatten().tolist()
        site, travelled = np.array(np.unravel_index(int(start[b, w]), shape)), np.zeros(3, int)
        for attempt, word in enumerate(words):
            direction, low = divmod(6 * word, 2**32)
            step = np.eye(3, dtype=int)[direction % 3] * (1 if direction < 3 else -1)
            new = (site + step) % shape
            threshold = int(leave[b, labels[(b, *site)].item()] * enter[b, labels[(b, *new)].item()])
            if low < threshold:
                site, travelled = new, travelled + step
                hops[b, w] += 1
            if (attempt + 1) % (4 * n) == 0:
                displacement[b, attempt // (4 * n), w] = travelled
    return torch.from_numpy(displacement), torch.from_numpy(hops)


def case(shape, walkers, classes, seed=7):
    """Random labels and rates, class 1 blocked, walkers in the first and the last corner and anywhere."""
    generator = torch.Generator().manual_seed(seed)
    sites = shape[1] * shape[2] * shape[3]
    labels = torch.randint(0, classes, shape, dtype=torch.uint8, generator=generator)
    leave, enter = (torch.rand(shape[0], 256, generator=generator) * 2**16 for _ in range(2))
    enter[:, 1] = 0
    start = torch.randint(0, sites, (shape[0], walkers), dtype=torch.int32, generator=generator)
    start[:, 0], start[:, -1] = 0, sites - 1
    return labels, leave, enter, start


@pytest.mark.parametrize(
    ("shape", "walkers", "classes"),
    [
        ((2, 5, 3, 7), 6, 6),  # fewer walkers than lanes, two of different lengths
        ((1, 1, 2, 4), 64, 2),
        ((1, 6, 6, 6), 65, 1),
        ((2, 9, 4, 3), 131, 256),
        ((1, 1, 1, 1), 1, 1),
        ((1, 2, 1, 3), 20, 2),  # cells shorter than a walker's reach
        ((1, 3, 4, 2), 129, 1),
    ],
)
def test_the_walk_in_lanes_is_the_plain_one(shape, walkers, classes):
    quads = torch.tensor([11, 14] if shape[0] == 2 else [7], dtype=torch.int32)
    ids = torch.tensor([2**32 - 1, 0][: shape[0]])
    arguments = (*case(shape, walkers, classes), quads, ids, 2**63 + 1, 3)
    ours, twin = plain_walk(*arguments), lanes.walk(*arguments)
    assert torch.equal(ours[0], twin[0])
    assert torch.equal(ours[1], twin[1])
    assert int(ours[1].sum()) > 10


def test_words_next_to_where_the_direction_changes():
    cell = np.array([100, 10, 1], np.uint32)
    for word in sorted({(m * 2**32 // 6 + d) % 2**32 for m in range(6) for d in (-1, 0, 1)}):
        direction, low = divmod(6 * word, 2**32)
        axis, sign = direction % 3, 1 if direction < 3 else -1
        made = lanes._hop(np.uint32(word), cell)
        assert made == ((sign * 10 ** (2 - axis)) % 2**32, sign * 2 ** (9 * axis) + 2**27, low), word


def test_walks_where_all_hops_succeed_or_none():
    labels, _, _, start = case((1, 3, 2, 5), 70, 1)
    quads, ids = torch.tensor([15], dtype=torch.int32), torch.tensor([3])
    leave, enter = torch.full((1, 256), 2.0**16), torch.full((1, 256), 2.0**16 * (1 - 2.0**-24))
    arguments = (labels, leave, enter, start, quads, ids, 5, 2)
    ours, twin = plain_walk(*arguments), lanes.walk(*arguments)
    assert torch.equal(ours[0], twin[0])
    assert twin[1].tolist() == [[2 * 4 * 15] * 70]
    for still in ((labels, leave * 0, enter, start, quads, ids, 5, 2), (*arguments[:4], quads * 0, ids, 5, 2)):
        displacement, hops = lanes.walk(*still)
        assert not displacement.any()
        assert not hops.any()


def test_structures_walk_alike_in_any_chunks(monkeypatch):
    arguments = (*case((3, 6, 5, 4), 10, 5), torch.tensor([9, 2, 8], dtype=torch.int32), torch.tensor([1, 2, 3]), 9, 3)
    whole = lanes.walk(*arguments)
    monkeypatch.setattr(lanes, "_FIELDS", 1)
    parts = lanes.walk(*arguments)
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])


def test_a_structure_whose_images_have_no_32_bit_address_is_refused():
    assert lanes.sides((1, 2, 75)) == [1, 12, 83]
    labels = torch.zeros(1, dtype=torch.uint8).expand(1, 2, 2, 2**25)  # 2²⁷ sites; 12 · 12 · 2²⁵ with images
    medium = gpuion.Medium(labels, torch.ones(1), torch.zeros(1))
    with pytest.raises(ValueError, match=r"2·2·33554432 sites is too thin for a walk on a CPU"):
        gpuion.walk(medium)


def test_threads_and_tables_that_are_not_in_one_piece_change_nothing():
    labels, leave, enter, start = case((3, 6, 5, 4), 100, 5)
    quads, ids = torch.tensor([9, 2, 8], dtype=torch.int32), torch.tensor([1, 2, 3])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = lanes.walk(labels, leave, enter, start, quads, ids, 9, 3)
        torch.set_num_threads(2)
        two = lanes.walk(labels, leave, enter, start, quads, ids, 9, 3)
    finally:
        torch.set_num_threads(before)
    pieces = [x.T.contiguous().T for x in (leave, enter, start)]
    turned = lanes.walk(labels.permute(0, 3, 2, 1).contiguous().permute(0, 3, 2, 1), *pieces, quads, ids, 9, 3)
    for other in (two, turned):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="reads x86's instructions")
def test_the_walk_is_made_of_vectors(monkeypatch):
    # Without them the walk is right and takes ten times as long. _plan multiplies four words by 6, _settle three
    # coordinates by strides; the three loops of _step multiply two rates.
    fresh = numba.njit(parallel=True, error_model="numpy")(lanes._walk.py_func)  # what was cached cannot be read
    monkeypatch.setattr(lanes, "_walk", fresh)
    lanes.walk(*case((1, 2, 2, 2), 2, 2), torch.tensor([1], dtype=torch.int32), torch.tensor([0]), 1, 1)
    code = "".join(fresh.inspect_asm().values())
    found = {name: len(re.findall(rf"\b{name}\b", code)) for name in ("v?pmulld", "v?pmuludq", "v?mulps")}
    assert found["v?pmulld"] >= 4 + 3, found
    assert found["v?mulps"] >= 3, found
    assert found["v?pmuludq"] >= 18, found  # Philox: ten rounds of two, those of the first from constants
