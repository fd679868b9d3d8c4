"""The random walk on a CPU: 128 walkers of a structure in lockstep, loops under numba that LLVM turns into vectors.

Each lane does what one of the kernel's does (`gpuion.kernels.walk`), with the same draws and the same decisions, so
that the paths are equal bit for bit. A Philox call is four attempts, so a walker gets at most four sites away before
its coordinates are wrapped: it walks in a field with images around the cell, four sites wide, and an attempt knows
addresses alone. `_plan` makes four strides of four words; for each, `_look` looks up the site that each lane would hop
to, two reads one after the other, and `_step` decides, moves and proposes the next, without a branch or a read at an
address from memory, 16 lanes an instruction with AVX-512; `_settle` wraps. In one loop the look-ups would keep the rest
from vectors; a gather takes as long as scalar loads on the processors at hand.

Look-ups wait for memory, random words for one product after the other. So half of the lanes look up while the others
step, and words of the next four attempts are drawn in between, in pieces: 1.2 times the attempts a second.

What LLVM vectorises it does not say, and it is easily kept from it: by 64 bits where 32 do, by a branch (hence masks
and `_pick`), by a load after a store (hence all loads first), by arrays that may overlap (hence one array of rows a
constant number of lanes apart), by loops that it has unrolled before it inlines them (hence inline="always": 1.15 times
the attempts). A core then makes a tenth of the attempts; `tests/test_walk_paths.py` looks.

Of one walker a loop, with a branch for each attempt and its thresholds kept while it rests, 64 lanes that kept
coordinates in every attempt were 15 times as fast where 98% of attempts succeed, and twice where 4% do; this is 1.5
times as fast again in both.

Legend: B structures, W walkers, T checkpoints, X Y Z sites.
"""

import math

import numba
import numpy as np
import torch
from numba import prange, uint32
from torch import Tensor

from gpuion.kernels.reference import Stream
from gpuion.kernels.scalar import philox, same_threads

_HOP = int(Stream.WALK_HOP)
_REACH = 4  # attempts of a Philox call, and so sites that a walker gets beyond the cell before it is put back
_LANES, _HALF, _PIECE = 128, 64, 16  # with 64 or 256 lanes 0.87 or 0.75 times as many attempts a second
# Rows of the state, uint32. Coordinates in the cell, displacement and hops made, brought up to date every four
# attempts; the field's site there; the rate (bits of a float32) of leaving; what the attempts did; the site proposed.
_X, _Y, _Z, _DX, _DY, _DZ, _HOPS, _SITE, _REST, _COUNT, _NEW = (i * _LANES for i in range(11))
_RATES = 11 * _LANES  # two rows: leave and enter of the proposed site, in turn
_WORDS, _STRIDES, _ONES, _LOWS = (i * _LANES for i in (13, 17, 22, 26))  # rows for each attempt; one stride more, 0
_ROWS = 30
_FIELDS = 2**26  # bytes of fields at once
# Counts of four attempts in a word: displacement along x, y, z in 9 bits each, 4 more than it is, and hops above.
_NONE = _REACH | _REACH << 9 | _REACH << 18


@numba.njit(forceinline=True)
def _mask(flag):
    """Return all ones if true."""
    return uint32(uint32(0) - uint32(flag))


@numba.njit(forceinline=True)
def _pick(mask, a, b):
    """Return a where the mask is set, b elsewhere."""
    return uint32(uint32(uint32(a ^ b) & mask) ^ b)


@numba.njit(inline="always")
def _draw(state, begin, counter, walker, name, key0, key1):
    """Draw four words for each lane of a piece."""
    for i in range(begin, begin + _PIECE):
        words = philox(counter, uint32(walker + uint32(i)), name, uint32(_HOP), key0, key1)
        for k in range(4):
            state[_WORDS + k * _LANES + i] = words[k]


@numba.njit(forceinline=True)
def _hop(word, cell):
    """Return what a hop that a word draws adds to the site and to the count, and the low bits that decide on it.

    6 · word / 2³² is the direction: backwards in the upper half of the words, along x, y or z by thirds of a half.
    """
    twice = uint32(word + word)
    backwards = _mask(word > uint32(0x7FFFFFFF))
    not_x, on_z = _mask(twice > uint32(0x55555555)), _mask(twice > uint32(0xAAAAAAAA))
    stride = _pick(on_z, cell[2], _pick(not_x, cell[1], cell[0]))
    one = _pick(on_z, uint32(1 << 18), _pick(not_x, uint32(1 << 9), uint32(1)))
    stride, one = uint32(stride ^ backwards) - backwards, uint32(one ^ backwards) - backwards
    return uint32(stride), uint32(one + uint32(1 << 27)), uint32(word * uint32(6))


@numba.njit(inline="always")
def _plan(state, cell):
    """Make four hops of the words drawn, and propose the first."""
    for i in range(_LANES):
        site = state[_SITE + i]
        words = (
            state[_WORDS + i], state[_WORDS + _LANES + i], state[_WORDS + 2 * _LANES + i],
            state[_WORDS + 3 * _LANES + i],
        )  # fmt: skip
        for k in range(4):
            stride, one, low = _hop(words[k], cell)
            state[_STRIDES + k * _LANES + i], state[_ONES + k * _LANES + i] = stride, one
            state[_LOWS + k * _LANES + i] = low
            if k == 0:
                state[_NEW + i] = uint32(site + stride)
        state[_COUNT + i] = uint32(_NONE)


@numba.njit(inline="always")
def _look(state, pairs, begin, field, rates):
    """Fetch the rates of leaving and entering the proposed sites of half the lanes."""
    for i in range(begin, begin + _HALF):
        pairs[_RATES // 2 + i] = rates[field[state[_NEW + i]]]


@numba.njit(inline="always")
def _step(state, begin, k):
    """Make the proposed hops of half the lanes, or not, and propose the next."""
    for i in range(begin, begin + _HALF):
        new, low, rest, count = state[_NEW + i], state[_LOWS + k * _LANES + i], state[_REST + i], state[_COUNT + i]
        stride, one = state[_STRIDES + k * _LANES + i], state[_ONES + k * _LANES + i]
        following = state[_STRIDES + (k + 1) * _LANES + i]
        leave, enter = state[_RATES + 2 * i], state[_RATES + 2 * i + 1]
        threshold = uint32(np.float32(np.uint32(rest).view(np.float32) * np.uint32(enter).view(np.float32)))
        hop = _mask(low < threshold)
        state[_COUNT + i], state[_REST + i] = uint32(count + uint32(one & hop)), _pick(hop, leave, rest)
        state[_NEW + i] = uint32(uint32(new - uint32(stride & ~hop)) + following)


@numba.njit(inline="always")
def _quad(state, pairs, field, rates, cell, counter, walker, name, key0, key1):
    """Make four attempts, and draw the words of the next four."""
    _plan(state, cell)
    for k in range(4):
        _look(state, pairs, 0, field, rates)
        _draw(state, 2 * k * _PIECE, counter, walker, name, key0, key1)
        if k > 0:
            _step(state, _HALF, k - 1)
        _look(state, pairs, _HALF, field, rates)
        _draw(state, (2 * k + 1) * _PIECE, counter, walker, name, key0, key1)
        _step(state, 0, k)
    _step(state, _HALF, 3)
    _settle(state, cell)


@numba.njit(forceinline=True)
def _around(x, side):
    """Return a coordinate that is off its cell by less than a side, put back."""
    up, down = uint32(x + side), uint32(x - side)
    x = _pick(_mask(up < x), up, x)  # below 0, so large
    return _pick(_mask(down < x), down, x)


@numba.njit(inline="always")
def _settle(state, cell):
    """Empty the counts into displacements and hops, and put the walkers back into the cell."""
    low, reach = uint32(511), uint32(_REACH)
    for i in range(_LANES):
        count, hops = state[_COUNT + i], state[_HOPS + i]
        x, y, z, dx, dy, dz = (
            state[_X + i], state[_Y + i], state[_Z + i], state[_DX + i], state[_DY + i], state[_DZ + i],
        )  # fmt: skip
        by_x = uint32(uint32(count & low) - reach)
        by_y = uint32(uint32(uint32(count >> uint32(9)) & low) - reach)
        by_z = uint32(uint32(uint32(count >> uint32(18)) & low) - reach)
        x, y, z = uint32(x + by_x), uint32(y + by_y), uint32(z + by_z)
        x, y, z = _around(x, cell[3]), _around(y, cell[4]), _around(z, cell[5])
        state[_DX + i], state[_DY + i], state[_DZ + i] = uint32(dx + by_x), uint32(dy + by_y), uint32(dz + by_z)
        state[_X + i], state[_Y + i], state[_Z + i], state[_SITE + i] = x, y, z, _site(x, y, z, cell)
        state[_HOPS + i] = uint32(hops + uint32(count >> uint32(27)))


@numba.njit(forceinline=True)
def _site(x, y, z, cell):
    """Return where a site of the cell is in the field."""
    return uint32(uint32(uint32(x * cell[0]) + uint32(y * cell[1])) + uint32(uint32(z * cell[2]) + cell[6]))


@numba.njit(inline="always")
def _stand(state, field, leaves, start, cell):
    """Put the lanes on their first sites; spare ones go with the last walker."""
    for i in range(_LANES):
        x, y, z = start[min(i, len(start) - 1)]
        site = _site(uint32(x), uint32(y), uint32(z), cell)
        state[_X + i], state[_Y + i], state[_Z + i], state[_SITE + i] = x, y, z, site
        state[_REST + i] = leaves[2 * np.int64(field[site])]


@numba.njit(inline="always")
def _room():
    """Return the state as pairs of words, no vector across two lines of the cache: 1.25 times the attempts."""
    pairs = np.zeros(_ROWS * _LANES // 2 + 8, np.uint64)
    skip = np.int64(pairs.ctypes.data // 8 % 8)
    return pairs[8 - skip : 8 - skip + _ROWS * _LANES // 2]


@numba.njit(cache=True, parallel=True, error_model="numpy")
def _walk(fields, tables, cell, start, first, quads, ids, first_walker, key0, key1, displacement, hops):
    B, T, W = displacement.shape[:3]
    groups = (W + _LANES - 1) // _LANES
    for task in prange(B * groups):
        b, begin = task // groups, task % groups * _LANES
        end = min(begin + _LANES, W)
        field, rates, pairs = fields[b], tables[b], _room()
        state = pairs.view(np.uint32)
        _stand(state, field, rates.view(np.uint32), start[b, begin:end], cell)
        counter, walker, name = uint32(first[b]), uint32(first_walker + begin), uint32(ids[b])
        for piece in range(0, _LANES, _PIECE):
            _draw(state, piece, counter, walker, name, key0, key1)
        for t in range(T):
            for _ in range(quads[b]):
                counter = uint32(counter + uint32(1))
                _quad(state, pairs, field, rates, cell, counter, walker, name, key0, key1)
            for i in range(end - begin):
                for axis in range(3):
                    displacement[b, t, begin + i, axis] = np.int32(state[_DX + axis * _LANES + i])
        for i in range(end - begin):
            hops[b, begin + i] = np.int32(state[_HOPS + i])


def sides(shape: tuple[int, ...]) -> list[int]:
    """Return the sides of a structure's field: a cell no shorter than a walker's reach, and images around it.

    An axis of one site needs none: its stride is 0.
    """
    return [n if n == 1 else -(-_REACH // n) * n + 2 * _REACH for n in shape]


def walk(
    labels: Tensor,
    leave: Tensor,
    enter: Tensor,
    start: Tensor,
    quads: Tensor,
    ids: Tensor,
    seed: int,
    checkpoints: int,
    first: Tensor | None = None,
    first_walker: int = 0,
) -> tuple[Tensor, Tensor]:
    """Return displacements int32 [B, T, W, 3] and hops int32 [B, W]; twin of `gpuion.kernels.walk.walk`."""
    B, W, shape = len(labels), start.shape[1], labels.shape[1:]
    displacement = torch.empty((B, checkpoints, W, 3), dtype=torch.int32)
    hops = torch.empty((B, W), dtype=torch.int32)
    first = torch.zeros_like(quads) if first is None else first
    tables = torch.stack([leave, enter], -1).numpy().view(np.uint64)[..., 0]  # one load brings both
    around = sides(shape)
    strides = [around[1] * around[2], around[2], 1]
    strides = [0 if n == 1 else stride for n, stride in zip(shape, strides, strict=True)]  # a hop ends where it began
    cell = np.array([*strides, *(n - 2 * _REACH for n in around), _REACH * sum(strides)]).astype(np.uint32)
    starts = np.stack(np.unravel_index(start.contiguous().numpy(), shape), -1)
    others = [x.contiguous().numpy() for x in (first, quads, ids)]
    keys = np.uint32(seed & 0xFFFFFFFF), np.uint32((seed >> 32) & 0xFFFFFFFF)
    chunk = max(1, _FIELDS // math.prod(around))
    for b in range(0, B, chunk):
        part = slice(b, b + chunk)
        with same_threads():
            _walk(
                _surround(labels[part]).numpy(), tables[part], cell, starts[part], *(x[part] for x in others),
                first_walker, *keys, displacement[part].numpy(), hops[part].numpy(),
            )  # fmt: skip
    return displacement, hops


def _surround(labels: Tensor) -> Tensor:
    """Return labels [B, X, Y, Z] with images around, flat, [B, sites]."""
    for axis, (n, side) in enumerate(zip(labels.shape[1:], sides(labels.shape[1:]), strict=True)):
        if side > n:
            labels = labels.index_select(axis + 1, torch.arange(-_REACH, side - _REACH) % n)
    return labels.flatten(1).contiguous()
