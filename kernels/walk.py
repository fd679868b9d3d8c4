"""Random walks on a lattice of site classes: null-event kinetic Monte Carlo, one walker a lane.

An attempt lasts 1 / (6 k_max). It draws one of the six directions, +x +y +z −x −y −z, and hops with probability
k / k_max, both from one 32-bit word r: 6 r = direction · 2³² + low, and the hop is made if low < threshold. Rates
factorise, k(x→y) = leave[class x] · enter[class y], so the threshold is one float32 product, scaled to 2³². Every
decision is on integers or on that one IEEE product: the twin walks the same path bit for bit.

A site's address is the bits of its coordinates interleaved (x at bits 0, 3, 6 …, z at 1, 4 …, y at 2, 5 …), so that
each cube of 2, 4, 8 … sites is one piece of memory, and a walker, which returns to the same sites, finds them in the
cache. One integer holds the whole position. A step adds or subtracts under its axis's mask: the carry runs through the
bits of the other axes. Addresses run to about the cube of the next power of two above the longest side (375³ sites: 120
MB instead of 53; thin media most), but what lies between is never touched.

Hops of each direction are counted in six 5-bit fields of a word, which is emptied after 28 attempts. Compiled for
sm_90 an attempt is 39 instructions, of which a quarter of Philox 13.

Legend: B structures, W walkers, T checkpoints, X Y Z sites, K = 256 classes.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from gpuion.kernels.philox import philox
from gpuion.kernels.reference import Stream

LARGEST = (2048, 1024, 2048)
"""Sites along x, y, z that 32 bits can address: 11, 10 and 11 bits."""

_HOP = tl.constexpr(int(Stream.WALK_HOP))
_THIRDS = tl.constexpr(sum(1 << bit for bit in range(0, 64, 3)))
_TURNS = tl.constexpr(7)  # Philox calls between two emptyings of the counts: 28 attempts, and 5 bits hold 31
_FIELDS = 2**30  # bytes of interleaved fields at once


@triton.jit
def attempt(word, site, leave, counts, p_field, p_rates, last):
    """Try one hop of every walker; return the new state."""
    product = word.to(tl.uint64) * 6
    direction = (product >> 32).to(tl.uint32)
    low = product.to(tl.uint32)
    thirds = tl.full(word.shape, _THIRDS, tl.uint64)
    mask = (thirds >> direction.to(tl.uint64)).to(tl.uint32)  # every third bit: of x for 0 and 3, y for 1 and 4 …
    ahead = direction < 3
    edge = tl.where(ahead, last, 0)
    # Within a mask −1 is all ones, so − mask adds 1; bits of other axes borrow and are masked off.
    stepped = ((site & mask) - tl.where(ahead, mask, 1)) ^ site
    new = site ^ (tl.where(((site ^ edge) & mask) == 0, last, stepped) & mask)  # at the seam all bits of `last` flip
    label = tl.load(p_field + new.to(tl.uint64))
    rates = tl.load(p_rates + label.to(tl.uint32))
    enter = (rates >> 32).to(tl.uint32).to(tl.float32, bitcast=True)
    hop = low < (leave * enter).to(tl.uint32)
    site = tl.where(hop, new, site)
    leave = tl.where(hop, rates.to(tl.uint32).to(tl.float32, bitcast=True), leave)
    one = tl.full(word.shape, 1, tl.uint32)
    counts += tl.where(hop, one << (5 * direction), 0)
    return site, leave, counts


@triton.jit
def tally(counts, direction: tl.constexpr):
    """Return how many hops went in a direction."""
    return ((counts >> (5 * direction)) & 31).to(tl.int32)


@triton.jit(do_not_specialize=["key0", "key1", "last", "first_walker"])
def walk_kernel(
    fields, rates, start, first, quads, ids, displacement, hops_made,
    key0, key1, last, first_walker, size, W, T, BLOCK: tl.constexpr,
):  # fmt: skip
    """Walk BLOCK walkers of one structure through all checkpoints, `quads[b]` · 4 attempts to each."""
    tl.static_assert(4 * _TURNS < 32, "a count would run into its neighbour")
    i_b = tl.program_id(1)
    o_w = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m_w = o_w < W
    o_w = tl.minimum(o_w, W - 1)  # spare lanes walk with the last walker: no mask in the loop
    p_field = fields + i_b.to(tl.int64) * size
    p_rates = rates + i_b * 256
    site = tl.load(start + i_b * W + o_w).to(tl.uint32)
    label = tl.load(p_field + site.to(tl.uint64))
    leave = tl.load(p_rates + label.to(tl.uint32)).to(tl.uint32).to(tl.float32, bitcast=True)
    last = tl.zeros([BLOCK], tl.uint32) + last.to(tl.uint32)
    dx = tl.zeros([BLOCK], tl.int32)
    dy = tl.zeros([BLOCK], tl.int32)
    dz = tl.zeros([BLOCK], tl.int32)
    hops = tl.zeros([BLOCK], tl.int32)
    walker = (o_w + first_walker).to(tl.uint32)
    structure = tl.zeros([BLOCK], tl.uint32) + tl.load(ids + i_b).to(tl.uint32)
    stream = tl.full([BLOCK], _HOP, tl.uint32)
    n_quads = tl.load(quads + i_b)
    counter = tl.zeros([BLOCK], tl.uint32) + tl.load(first + i_b).to(tl.uint32)
    key0 = key0.to(tl.uint32)
    key1 = key1.to(tl.uint32)
    for i_t in range(T):
        for i_q in range(0, n_quads, _TURNS):
            counts = tl.zeros([BLOCK], tl.uint32)
            for _ in range(i_q, tl.minimum(i_q + _TURNS, n_quads)):
                w0, w1, w2, w3 = philox(counter, walker, structure, stream, key0, key1)
                site, leave, counts = attempt(w0, site, leave, counts, p_field, p_rates, last)
                site, leave, counts = attempt(w1, site, leave, counts, p_field, p_rates, last)
                site, leave, counts = attempt(w2, site, leave, counts, p_field, p_rates, last)
                site, leave, counts = attempt(w3, site, leave, counts, p_field, p_rates, last)
                counter += 1
            dx += tally(counts, 0) - tally(counts, 3)
            dy += tally(counts, 1) - tally(counts, 4)
            dz += tally(counts, 2) - tally(counts, 5)
            for direction in tl.static_range(6):
                hops += tally(counts, direction)
        p_out = displacement + ((i_b.to(tl.int64) * T + i_t) * W + o_w) * 3
        tl.store(p_out, dx, mask=m_w)
        tl.store(p_out + 1, dy, mask=m_w)
        tl.store(p_out + 2, dz, mask=m_w)
    tl.store(hops_made + i_b * W + o_w, hops, mask=m_w)


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
    """Return unwrapped displacements int32 [B, T, W, 3] in lattice steps, and hops made int32 [B, W].

    A walk goes on where another ended if `start` is where its walkers stood and `first` the attempts they had made.

    Parameters
    ----------
    labels : uint8 [B, X, Y, Z]
        At most 2048 · 1024 · 2048 sites.
    leave, enter : float32 [B, 256]
        k(x→y) · 2³² / k_max = leave[class x] · enter[class y].
    start : int32 [B, W]
        Flat index of each walker's first site.
    quads : int32 [B]
        Attempts between checkpoints, in fours.
    ids : int64 [B]
        Global structure ids in [0, 2³²).
    seed, checkpoints : int
        Fewer than 2³¹ attempts in all.
    first : int32 [B], optional
        Number of the first attempts, in fours, default 0.
    first_walker : int
        Number of the first walker.
    """
    B, X, Y, Z = labels.shape
    assert all(sites <= most for sites, most in zip((X, Y, Z), LARGEST, strict=True))
    W, T = start.shape[1], checkpoints
    displacement = torch.empty((B, T, W, 3), dtype=torch.int32, device=labels.device)
    hops = torch.empty((B, W), dtype=torch.int32, device=labels.device)
    first = torch.zeros_like(quads) if first is None else first
    start = address(start // (Y * Z), start // Z % Y, start % Z)
    rates = torch.stack([leave, enter], -1).view(torch.int64)[..., 0]  # one load brings both
    last = int(address(*(torch.tensor(sites - 1) for sites in (X, Y, Z))))
    keys = _signed(seed), _signed(seed >> 32)
    block = 128  # one walker a lane of four warps
    chunk = max(1, min(_FIELDS // (last + 1), 2**16 - 1))
    for b in range(0, B, chunk):
        part = slice(b, b + chunk)
        fields = interleave(labels[part], last + 1)
        grid = (triton.cdiv(W, block), len(fields))
        with torch.cuda.device_of(labels):
            walk_kernel[grid](
                fields, rates[part], start[part], first[part], quads[part], ids[part], displacement[part], hops[part],
                *keys, _signed(last), first_walker, last + 1, W, T, BLOCK=block,
                num_warps=4, enable_fp_fusion=False,  # the twin does not fuse
            )  # fmt: skip
    return displacement, hops


def address(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Return the interleaved bits of coordinates, int64 in [0, 2³²): x at 0, 3, 6 …, z at 1, 4 …, y at 2, 5 …"""
    bits = zip((x.long(), y.long(), z.long()), (0, 2, 1), (11, 10, 11), strict=True)
    return sum(((c >> bit & 1) << (3 * bit + shift) for c, shift, count in bits for bit in range(count)))


def interleave(labels: Tensor, size: int) -> Tensor:
    """Return labels [B, X, Y, Z] as fields uint8 [B, size], each site at its address; the rest is left as it was."""
    B, X, Y, Z = labels.shape
    zero = torch.zeros(1, dtype=torch.int64, device=labels.device)
    x, y, z = (torch.arange(sites, device=labels.device) for sites in (X, Y, Z))
    plane = (address(zero, y, zero)[:, None] + address(zero, zero, z)).flatten()
    fields = torch.empty((B, size), dtype=torch.uint8, device=labels.device)
    for i, offset in enumerate(address(x, zero, zero).tolist()):  # plane by plane: an index is eight times a label
        fields[:, plane + offset] = labels[:, i].reshape(B, -1)
    return fields


def _signed(word: int) -> int:
    """Return the low 32 bits as a signed integer, which a launch always passes as int32."""
    return ((word & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000
