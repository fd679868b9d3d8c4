"""The rule by which slopes of mean squares count as settled.

Legend: W walkers.
"""

import math

import torch

from gpuion import slopes


def test_a_slope_is_read_only_where_later_ones_are_no_lower():
    # Free walkers, D = 50, and the same with a tethered motion of relaxation time 20 checkpoints on top: half the slope
    # of the mean square is then 50 + 37.5 exp(−t / 20). The box is small and walkers are many: nothing else objects.
    generator = torch.Generator().manual_seed(4)
    W, keep = 4000, math.exp(-1 / 20)
    free = 10 * torch.randn(64, W, 3, generator=generator)
    tether, tethers = 750**0.5 * torch.randn(W, 3, generator=generator), []
    begin = tether
    for _ in range(64):
        tether = keep * tether + (750 * (1 - keep**2)) ** 0.5 * torch.randn(W, 3, generator=generator)
        tethers.append(tether - begin)
    one, small = torch.ones(1, dtype=torch.float64), torch.full((3,), 5.0, dtype=torch.float64)
    leads = torch.ones(1, 3, dtype=torch.bool)
    path = free.cumsum(0)
    calm = slopes.analyse(path.round().int()[None], one, 1.0, small, leads)
    assert calm.converged.tolist() == [True]
    assert ((calm.diffusivity - 50).abs() < 4.5 * calm.standard_error).all()  # 3 components, 4.5σ
    falling = slopes.analyse((path + torch.stack(tethers)).round().int()[None], one, 1.0, small, leads)
    assert falling.slopes[0, 0].min() > 1.2 * falling.slopes[0, -1].max()
    assert falling.converged.tolist() == [False]
    assert falling.reason == (slopes.TIME[1],)
