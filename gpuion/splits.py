"""Which structures of a data set train a network, which choose it and which test it."""

import math

import torch
from torch import Tensor

from gpuion.kernels.reference import Stream, philox


def split(n: int, seed: int, fractions: tuple[float, float, float] = (0.6, 0.2, 0.2)) -> tuple[Tensor, Tensor, Tensor]:
    """Return the positions of training, validation and test structures: a random permutation, cut in three.

    Validation and test have ⌊n · fraction⌋ structures, training the rest: 4916, 1638 and 1638 of 8192.

    Raises
    ------
    ValueError
        For fractions that are negative or do not add up to 1.
    """
    if min(fractions) < 0 or not math.isclose(sum(fractions), 1.0) or n < 0:
        raise ValueError(f"n and the fractions must be ≥ 0, the fractions add up to 1; got {n} and {fractions}")
    word = philox(seed, 0, 0, torch.arange(n), Stream.SPLIT)[0]
    held = [math.floor(n * fraction + 1e-9) for fraction in fractions[1:]]
    train, validation, test = torch.argsort(word, stable=True).split([n - sum(held), *held])
    return train, validation, test
