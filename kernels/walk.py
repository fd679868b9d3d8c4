"""Random walks on a lattice of site classes: null-event kinetic Monte Carlo, one walker a lane.

An attempt lasts 1 / (6 k_max). It draws one of the six directions and hops with probability k / k_max, both from one
32-bit word r: 6 r = direction · 2³² + low, and the hop is made if low < threshold. Rates factorise,
k(x→y) = leave[class x] · enter[class y], so the threshold is one float32 product of two table entries, scaled to 2³².
Every decision is on integers or on one IEEE product: the twin walks the same path bit for bit.

Legend: B structures, W walkers, T checkpoints, X Y Z sites, K = 256 classes.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from gpuion.kernels.philox import philox
from gpuion.kernels.reference import Stream

_HOP = tl.constexpr(int(Stream.WALK_HOP))


@triton.jit
def attempt(word, x, y, z, dx, dy, dz, leave, hops, p_labels, p_leave, p_enter, X, Y, Z, live):
    """Try one hop of every walker; return the new state."""
    product = word.to(tl.uint64) * 6
    direction = (product >> 32).to(tl.int32)
    low = product.to(tl.uint32)
    axis = direction >> 1
    sign = 1 - 2 * (direction & 1)
    step_x = tl.where(axis == 0, sign, 0)
    step_y = tl.where(axis == 1, sign, 0)
    step_z = tl.where(axis == 2, sign, 0)
    new_x = x + step_x
    new_y = y + step_y
    new_z = z + step_z
    new_x = tl.where(new_x < 0, X - 1, tl.where(new_x >= X, 0, new_x))
    new_y = tl.where(new_y < 0, Y - 1, tl.where(new_y >= Y, 0, new_y))
    new_z = tl.where(new_z < 0, Z - 1, tl.where(new_z >= Z, 0, new_z))
    label = tl.load(p_labels + (new_x * Y + new_y) * Z + new_z, mask=live, other=0).to(tl.int32)
    threshold = (leave * tl.load(p_enter + label)).to(tl.uint32)
    hop = low < threshold
    leave = tl.where(hop, tl.load(p_leave + label), leave)
    x = tl.where(hop, new_x, x)
    y = tl.where(hop, new_y, y)
    z = tl.where(hop, new_z, z)
    dx += tl.where(hop, step_x, 0)
    dy += tl.where(hop, step_y, 0)
    dz += tl.where(hop, step_z, 0)
    return x, y, z, dx, dy, dz, leave, hops + hop.to(tl.int32)


@triton.jit
def walk_kernel(
    labels, leave_table, enter_table, start, quads, ids, displacement, hops_made,
    keys, X, Y, Z, W, T, BLOCK: tl.constexpr,
):  # fmt: skip
    """Walk BLOCK walkers of one structure through all checkpoints, `quads[b]` · 4 attempts to each."""
    i_b = tl.program_id(1)
    o_w = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m_w = o_w < W
    p_labels = labels + i_b.to(tl.int64) * X * Y * Z
    p_leave = leave_table + i_b * 256
    p_enter = enter_table + i_b * 256
    site = tl.load(start + i_b * W + o_w, mask=m_w, other=0)
    z = site % Z
    y = (site // Z) % Y
    x = site // (Z * Y)
    leave = tl.load(p_leave + tl.load(p_labels + site, mask=m_w, other=0).to(tl.int32))
    dx = tl.zeros([BLOCK], tl.int32)
    dy = tl.zeros([BLOCK], tl.int32)
    dz = tl.zeros([BLOCK], tl.int32)
    hops = tl.zeros([BLOCK], tl.int32)
    walker = o_w.to(tl.uint32)
    structure = tl.zeros([BLOCK], tl.uint32) + tl.load(ids + i_b).to(tl.uint32)
    stream = tl.full([BLOCK], _HOP, tl.uint32)
    n_quads = tl.load(quads + i_b)
    key0 = tl.load(keys).to(tl.uint32)
    key1 = tl.load(keys + 1).to(tl.uint32)
    counter = tl.zeros([BLOCK], tl.uint32)
    for i_t in range(T):
        for _ in range(n_quads):
            w0, w1, w2, w3 = philox(counter, walker, structure, stream, key0, key1)
            x, y, z, dx, dy, dz, leave, hops = attempt(
                w0, x, y, z, dx, dy, dz, leave, hops, p_labels, p_leave, p_enter, X, Y, Z, m_w
            )
            x, y, z, dx, dy, dz, leave, hops = attempt(
                w1, x, y, z, dx, dy, dz, leave, hops, p_labels, p_leave, p_enter, X, Y, Z, m_w
            )
            x, y, z, dx, dy, dz, leave, hops = attempt(
                w2, x, y, z, dx, dy, dz, leave, hops, p_labels, p_leave, p_enter, X, Y, Z, m_w
            )
            x, y, z, dx, dy, dz, leave, hops = attempt(
                w3, x, y, z, dx, dy, dz, leave, hops, p_labels, p_leave, p_enter, X, Y, Z, m_w
            )
            counter += 1
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
) -> tuple[Tensor, Tensor]:
    """Return unwrapped displacements int32 [B, T, W, 3] in lattice steps, and hops made int32 [B, W].

    Parameters
    ----------
    labels : uint8 [B, X, Y, Z]
    leave, enter : float32 [B, 256]
        k(x→y) · 2³² / k_max = leave[class x] · enter[class y].
    start : int32 [B, W]
        Flat index of each walker's first site.
    quads : int32 [B]
        Attempts between checkpoints, in fours.
    ids : int64 [B]
        Global structure ids in [0, 2³²).
    seed, checkpoints : int
    """
    B, X, Y, Z = labels.shape
    W, T = start.shape[1], checkpoints
    displacement = torch.empty((B, T, W, 3), dtype=torch.int32, device=labels.device)
    hops = torch.empty((B, W), dtype=torch.int32, device=labels.device)
    keys = torch.tensor([seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF], device=labels.device)
    block = 128  # one walker a lane of four warps
    grid = (triton.cdiv(W, block), B)
    with torch.cuda.device_of(labels):
        walk_kernel[grid](
            labels, leave, enter, start, quads, ids, displacement, hops, keys, X, Y, Z, W, T, BLOCK=block,
            num_warps=4, enable_fp_fusion=False,  # the twin does not fuse
        )  # fmt: skip
    return displacement, hops
