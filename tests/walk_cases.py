"""Walks that kernel and twin must make alike, interpreted and on a GPU."""

import torch

SHAPES = [
    ((1, 7, 5, 3), 200, 4, False),
    ((3, 4, 9, 2), 37, 9, True),
    ((2, 1, 2, 13), 130, 1, False),
    ((1, 8, 4, 16), 128, 255, True),
    ((1, 33, 1, 6), 1, 3, False),
]
"""Labels [B, X, Y, Z], walkers, classes, whether the first is blocked."""


def case(shape, walkers, classes, blocked, seed):
    """Random labels, rate tables that sometimes reject and sometimes block, starts anywhere, the seam included."""
    generator = torch.Generator().manual_seed(seed)
    B, sites = shape[0], shape[1] * shape[2] * shape[3]
    labels = torch.randint(0, classes, shape, dtype=torch.uint8, generator=generator)
    leave = torch.full((B, 256), float("nan"))  # poisoned beyond the classes in use
    enter = torch.full((B, 256), float("nan"))
    leave[:, :classes] = torch.rand(B, classes, generator=generator) * 2**16
    enter[:, :classes] = torch.rand(B, classes, generator=generator) * 2**16
    if blocked:
        enter[:, 0] = 0
    start = torch.randint(0, sites, (B, walkers), dtype=torch.int32, generator=generator)
    start[:, 0], start[:, -1] = 0, sites - 1
    return labels, leave, enter, start
