"""Plain-torch twins of the kernels: the oracle they are tested against, and the CPU path.

Random numbers are Philox4x32-10 (Salmon et al., SC 2011, https://doi.org/10.1145/2063384.2063405): a pure function
of (seed, counter). Every draw in gpuion is keyed by the user's seed and a counter of four words: (number of the draw,
sub-index, structure or chain id, stream), so results do not depend on batch, block size, rank or restart.
"""

import enum

import torch
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF


@enum.unique
class Stream(enum.IntEnum):
    """The last counter word: what a random number is for, so that no two uses share one."""

    SLAB = 1
    DRAW = 2
    PARENT = 3
    WALK_START = 4
    WALK_HOP = 5
    MOVE = 6
    FAMILY = 7
    AUGMENT = 8
    SPLIT = 9
    CHOICE = 10
    THINNING = 11
    EXCHANGE = 12


def philox(seed: int, c0: Tensor | int, c1: Tensor | int, c2: Tensor | int, c3: int) -> tuple[Tensor, ...]:
    """Return four random 32-bit words a counter, as int64 tensors in [0, 2³²).

    The counter words are int64 tensors in [0, 2³²), or integers, that broadcast together.
    """
    words = list(torch.broadcast_tensors(*(torch.as_tensor(c) for c in _like_devices(c0, c1, c2, c3))))
    keys = [seed & _MASK, (seed >> 32) & _MASK]
    for _ in range(10):
        high0, low0 = _multiply(_MULTIPLIERS[0], words[0])
        high1, low1 = _multiply(_MULTIPLIERS[1], words[2])
        words = [high1 ^ words[1] ^ keys[0], low1, high0 ^ words[3] ^ keys[1], low0]
        keys = [(key + weyl) & _MASK for key, weyl in zip(keys, _WEYL, strict=True)]
    return tuple(words)


def uniform(word: Tensor) -> Tensor:
    """Map a 32-bit word to a float64 in [0, 1)."""
    return word.double() * 2.0**-32


def pick(word: Tensor, count: Tensor | int) -> Tensor:
    """Map a 32-bit word to an integer in [0, count)."""
    return (word * count) >> 32


def _like_devices(*counters: Tensor | int) -> list[Tensor | int]:
    """Put the counters that are plain integers where the tensors are."""
    device = next((c.device for c in counters if isinstance(c, Tensor)), None)
    return [c if isinstance(c, Tensor) else torch.tensor(c, device=device) for c in counters]


def _multiply(constant: int, word: Tensor) -> tuple[Tensor, Tensor]:
    """Return the high and low 32 bits of a product; the halves keep every step below 2⁶³."""
    low_part = constant * (word & 0xFFFF)
    high = (constant * (word >> 16) + (low_part >> 16)) >> 16
    low = (((constant * (word >> 16)) << 16) + low_part) & _MASK
    return high, low
