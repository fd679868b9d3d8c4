"""The random walk on a CPU: 64 walkers of a structure in lockstep, loops under numba that LLVM turns into vectors.

Each lane does what one of the kernel's does (`gpuion.kernels.walk`), with the same draws and the same arithmetic, so
that the paths are equal bit for bit. An attempt of all lanes is two loops. `_look` looks up the site that each lane
would hop to, two reads one after the other; `_step` decides, moves, and proposes the next hop, without a branch or a
read at an address from memory, 16 lanes an instruction with AVX-512. In one loop the look-ups would keep the rest from
vectors; a gather takes longer than scalar loads on the processors at hand.

What LLVM vectorises it does not say, and it is easily kept from it: by 64 bits where 32 do, by a branch (hence masks
and `_pick`), by a load after a store (hence all loads first), by arrays that may overlap (hence one array of rows a
constant number of lanes apart). A core then makes a tenth of the attempts; `tests/test_walk_paths.py` looks.

Of one walker a loop, with a branch for each attempt and its thresholds kept while it rests, this is 15 times as fast
where 98% of attempts succeed, and twice where 4% do.

Legend: B structures, W walkers, T checkpoints, X Y Z sites.
"""

import numba
import numpy as np
import torch
from numba import prange, uint32
from torch import Tensor

from gpuion.kernels.reference import Stream
from gpuion.kernels.scalar import philox, same_threads

_HOP = int(Stream.WALK_HOP)
_LANES = 64  # with 32 or 96, 0.7 or 1.0 times as many attempts a second; 200 walkers are four groups
_TURNS = 7  # Philox calls between two emptyings of the counts: 28 attempts, and 5 bits hold 31
# Rows of the state, uint32. Site and coordinates, and the rate (bits of a float32) of leaving; hops of each direction
# in six 5-bit fields; the hop proposed: direction, coordinate along its axis, site; displacement and hops made.
_SITE, _X, _Y, _Z, _REST, _COUNT, _TO, _MOVED, _NEW, _DX, _DY, _DZ, _HOPS = (i * _LANES for i in range(13))
_RATES = 14 * _LANES  # two rows: leave and enter of the proposed site, in turn
_WORDS = 16 * _LANES  # four rows: random words
_ROWS = 20


@numba.njit(forceinline=True)
def _mask(flag):
    """Return all ones if true."""
    return uint32(uint32(0) - uint32(flag))


@numba.njit(forceinline=True)
def _pick(mask, a, b):
    """Return a where the mask is set, b elsewhere."""
    return uint32(uint32(uint32(a ^ b) & mask) ^ b)


@numba.njit(forceinline=True)
def _axes(direction):
    """Return masks: hop backwards, along x, y, z."""
    behind = _mask(direction > uint32(2))
    axis = uint32(direction - uint32(behind & uint32(3)))
    return behind, _mask(axis == uint32(0)), _mask(axis == uint32(1)), _mask(axis == uint32(2))


@numba.njit(forceinline=True)
def _propose(word, site, x, y, z, sides):
    """Return the direction that a word draws, the coordinate along it after a hop, and the site there."""
    high = uint32(uint32(word >> uint32(16)) * uint32(6))
    low = uint32(uint32(word & uint32(0xFFFF)) * uint32(6))
    direction = uint32(uint32(high + uint32(low >> uint32(16))) >> uint32(16))  # 6 · word / 2³², in 32 bits
    behind, on_x, on_y, on_z = _axes(direction)
    here = uint32(uint32(on_x & x) | uint32(on_y & y) | uint32(on_z & z))
    side = uint32(uint32(on_x & sides[0]) | uint32(on_y & sides[1]) | uint32(on_z & sides[2]))
    stride = uint32(uint32(on_x & sides[3]) | uint32(on_y & sides[2]) | uint32(on_z & uint32(1)))
    moved = uint32(here + uint32(behind | uint32(1)))
    around = uint32(moved + side)  # the smaller of the two only if moved is −1 = 2³² − 1
    moved = _pick(_mask(around < moved), around, moved)
    around = uint32(moved - side)  # below zero, so large, unless moved is side
    moved = _pick(_mask(around < moved), around, moved)
    return direction, moved, uint32(site + uint32(uint32(moved - here) * stride))


@numba.njit(forceinline=True)
def _draw(state, counter, walker, name, key0, key1):
    """Draw four words a lane, and propose the first hop of them."""
    for i in range(_LANES):
        words = philox(counter, uint32(walker + uint32(i)), name, uint32(_HOP), key0, key1)
        for k in range(4):
            state[_WORDS + k * _LANES + i] = words[k]


@numba.njit(forceinline=True)
def _begin(state, sides):
    """Propose the hops of the first words."""
    for i in range(_LANES):
        to, moved, new = _propose(
            state[_WORDS + i], state[_SITE + i], state[_X + i], state[_Y + i], state[_Z + i], sides
        )  # fmt: skip
        state[_TO + i], state[_MOVED + i], state[_NEW + i] = to, moved, new


@numba.njit(forceinline=True)
def _look(state, pairs, field, rates):
    """Fetch the rates of leaving and entering the proposed sites."""
    for i in range(_LANES):
        pairs[_RATES // 2 + i] = rates[field[state[_NEW + i]]]


@numba.njit(forceinline=True)
def _step(state, floats, word, after, sides):
    """Make the hops proposed by row `word`, or not, and propose those of row `after`."""
    for i in range(_LANES):
        to, moved, new, count = state[_TO + i], state[_MOVED + i], state[_NEW + i], state[_COUNT + i]
        site, x, y, z, rest = state[_SITE + i], state[_X + i], state[_Y + i], state[_Z + i], state[_REST + i]
        low, following, leave = uint32(state[word + i] * uint32(6)), state[after + i], state[_RATES + 2 * i]
        threshold = uint32(np.float32(floats[_REST + i] * floats[_RATES + 2 * i + 1]))
        hop = _mask(low < threshold)
        _, on_x, on_y, on_z = _axes(to)
        one = uint32(uint32(1) << uint32(uint32(uint32(5) * to) & uint32(31)))
        site, rest = _pick(hop, new, site), _pick(hop, leave, rest)
        x, y, z = _pick(hop & on_x, moved, x), _pick(hop & on_y, moved, y), _pick(hop & on_z, moved, z)
        state[_SITE + i], state[_REST + i], state[_COUNT + i] = site, rest, uint32(count + uint32(one & hop))
        state[_X + i], state[_Y + i], state[_Z + i] = x, y, z
        to, moved, new = _propose(following, site, x, y, z, sides)
        state[_TO + i], state[_MOVED + i], state[_NEW + i] = to, moved, new


@numba.njit(forceinline=True)
def _tally(state):
    """Empty the counts of hops into the displacements."""
    full = uint32(31)
    for i in range(_LANES):
        count, dx, dy, dz, hops = state[_COUNT + i], state[_DX + i], state[_DY + i], state[_DZ + i], state[_HOPS + i]
        x, y, z = count & full, (count >> uint32(5)) & full, (count >> uint32(10)) & full
        back_x, back_y, back_z = (count >> uint32(15)) & full, (count >> uint32(20)) & full, count >> uint32(25)
        state[_COUNT + i] = uint32(0)
        state[_DX + i] = uint32(dx + x - back_x)
        state[_DY + i] = uint32(dy + y - back_y)
        state[_DZ + i] = uint32(dz + z - back_z)
        state[_HOPS + i] = uint32(hops + x + y + z + back_x + back_y + back_z)


@numba.njit(forceinline=True)
def _stand(state, floats, field, rates, start, sides):
    """Put the lanes on their first sites; spare ones go with the last walker."""
    leaves = rates.view(np.float32)
    for i in range(_LANES):
        site = uint32(start[min(i, len(start) - 1)])
        state[_SITE + i], state[_X + i] = site, site // sides[3]
        state[_Y + i], state[_Z + i] = site // sides[2] % sides[1], site % sides[2]
        floats[_REST + i] = leaves[2 * np.int64(field[site])]


@numba.njit(cache=True, parallel=True, error_model="numpy")
def _walk(fields, tables, sides, start, first, quads, ids, first_walker, key0, key1, displacement, hops):
    B, T, W = displacement.shape[:3]
    groups = (W + _LANES - 1) // _LANES
    for task in prange(B * groups):
        b, begin = task // groups, task % groups * _LANES
        end = min(begin + _LANES, W)
        field, rates = fields[b], tables[b]
        pairs = np.zeros(_ROWS * _LANES // 2, np.uint64)
        state, floats = pairs.view(np.uint32), pairs.view(np.float32)
        _stand(state, floats, field, rates, start[b, begin:end], sides)
        counter, walker, name = uint32(first[b]), uint32(first_walker + begin), uint32(ids[b])
        for t in range(T):
            for quad in range(1, quads[b] + 1):
                _draw(state, counter, walker, name, key0, key1)
                _begin(state, sides)
                _look(state, pairs, field, rates)
                _step(state, floats, _WORDS, _WORDS + _LANES, sides)
                _look(state, pairs, field, rates)
                _step(state, floats, _WORDS + _LANES, _WORDS + 2 * _LANES, sides)
                _look(state, pairs, field, rates)
                _step(state, floats, _WORDS + 2 * _LANES, _WORDS + 3 * _LANES, sides)
                _look(state, pairs, field, rates)
                _step(state, floats, _WORDS + 3 * _LANES, _WORDS, sides)  # proposes in vain
                counter = uint32(counter + uint32(1))
                if quad % _TURNS == 0 or quad == quads[b]:
                    _tally(state)
            for i in range(end - begin):
                for axis in range(3):
                    displacement[b, t, begin + i, axis] = np.int32(state[_DX + axis * _LANES + i])
        for i in range(end - begin):
            hops[b, begin + i] = np.int32(state[_HOPS + i])


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
    (B, X, Y, Z), W = labels.shape, start.shape[1]
    displacement = torch.empty((B, checkpoints, W, 3), dtype=torch.int32)
    hops = torch.empty((B, W), dtype=torch.int32)
    first = torch.zeros_like(quads) if first is None else first
    tables = torch.stack([leave, enter], -1).numpy().view(np.uint64)[..., 0]  # one load brings both
    sides = np.array([X, Y, Z, Y * Z], np.uint32)  # in an array: scalars would come in 64 bits
    fields, *others = (x.contiguous().numpy() for x in (labels.reshape(B, X * Y * Z), start, first, quads, ids))
    keys = np.uint32(seed & 0xFFFFFFFF), np.uint32((seed >> 32) & 0xFFFFFFFF)
    with same_threads():
        _walk(fields, tables, sides, *others, first_walker, *keys, displacement.numpy(), hops.numpy())
    return displacement, hops
