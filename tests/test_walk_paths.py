"""The scalar walk against the same rule written as plainly as it can be said."""

import numpy as np
import pytest
import torch

from gpuion.kernels import scalar
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


@pytest.mark.parametrize(("shape", "classes"), [((2, 5, 3, 7), 6), ((1, 1, 2, 4), 2), ((1, 6, 6, 6), 1)])
def test_the_scalar_walk_is_the_plain_one(shape, classes):
    generator = torch.Generator().manual_seed(7)
    labels = torch.randint(0, classes, shape, dtype=torch.uint8, generator=generator)
    leave, enter = (torch.rand(shape[0], 256, generator=generator) * 2**16 for _ in range(2))
    enter[:, 1] = 0  # blocked
    start = torch.randint(0, shape[1] * shape[2] * shape[3], (shape[0], 6), dtype=torch.int32, generator=generator)
    start[:, 0], start[:, -1] = 0, shape[1] * shape[2] * shape[3] - 1
    # Blocks of 32 Philox calls that end within, at and after a checkpoint.
    quads, ids = torch.tensor([11, 16][: shape[0]], dtype=torch.int32), torch.tensor([2**32 - 1, 0][: shape[0]])
    arguments = (labels, leave, enter, start, quads, ids, 2**63 + 1, 4)
    ours, twin = plain_walk(*arguments), scalar.walk(*arguments)
    assert torch.equal(ours[0], twin[0])
    assert torch.equal(ours[1], twin[1])
    assert int(ours[1].sum()) > 50
