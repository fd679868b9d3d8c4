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


def tethered(B, W, tethers):
    """Return displacements of free walkers, D = 50, tied by tethers: half the slope is 50 + Σ c exp(−t / τ)."""
    generator = torch.Generator().manual_seed(1)
    path = 10 * torch.randn(B, 64, W, 3, generator=generator).cumsum(1)
    for time, fall in tethers:
        keep, variance = math.exp(-1 / time), fall * time
        begin = tether = variance**0.5 * torch.randn(B, W, 3, generator=generator)
        for step in range(64):
            kick = torch.randn(B, W, 3, generator=generator)
            tether = keep * tether + (variance * (1 - keep**2)) ** 0.5 * kick
            path[:, step] += tether - begin
    return path.round().int()


TAIL = [(time, 90 * time**-1.5) for time in (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)]  # about t^(−3/2)


def test_a_slow_motion_that_hardly_falls_at_first_is_not_settled():
    # Half the slope is 100 at first and 50 in the end; 100 walkers cannot tell the first windows apart.
    B = 40
    one, small = torch.ones(B, dtype=torch.float64), torch.full((3,), 5.0, dtype=torch.float64)
    run = slopes.analyse(tethered(B, 100, [(20.0, 50.0)]), one, 1.0, small, torch.ones(B, 3, dtype=torch.bool))
    assert run.slopes[:, 0].mean() < 1.04 * run.slopes[:, 1].mean()
    assert int(run.converged.sum()) <= 8  # 4 do; 35 where only three standard errors above a later window count


def test_what_a_slope_has_yet_to_fall_is_not_left_out(monkeypatch):
    B, W = 48, 300
    path, one = tethered(B, W, TAIL), torch.ones(B, dtype=torch.float64)
    small, leads = torch.full((3,), 5.0, dtype=torch.float64), torch.ones(B, 3, dtype=torch.bool)
    run = slopes.analyse(path, one, 1.0, small, leads)
    z = ((run.diffusivity - 50) / run.standard_error)[run.converged]
    assert len(z) > B / 2
    limit = 4 / math.sqrt(z.numel())  # four sigma of the mean of normal numbers, 0.4
    assert abs(float(z.mean())) < limit
    assert float(z.square().mean()) < 1 + 4 * math.sqrt(2 / z.numel())
    # Half of the range of what it may be instead is in the error bar, beside that over walkers.
    later = (run.lag[..., None] == run.lags[:, None]).byte().argmax(-1)[:, None]  # [B, 1, 3]
    fall = (run.slopes.gather(1, later - 1) - run.slopes.gather(1, later))[:, 0]
    windows = slopes._slopes(path) / 2
    before, after = (windows.gather(1, at[..., None].expand(-1, -1, -1, W))[:, 0] for at in (later - 1, later))
    ends = after - (before - after) / (2**1.5 - 1)
    torch.testing.assert_close(run.diffusivity, ends.mean(-1))
    torch.testing.assert_close(run.standard_error.square(), ends.var(-1) / W + fall.square() / 12)
    doubt = fall.abs().sum(-1) / 3 / math.sqrt(12)  # of the mean of the axes: theirs need not cancel
    torch.testing.assert_close(run.mean_error.square(), ends.mean(1).var(-1) / W + doubt.square())
    # Without it, slopes of the same walks, as settled, lie too high.
    monkeypatch.setattr(slopes, "AHEAD", 0.0)
    plain = slopes.analyse(path, one, 1.0, small, leads)
    z = ((plain.diffusivity - 50) / plain.standard_error)[plain.converged]
    assert float(z.mean()) > limit


def test_a_fall_beside_which_the_noise_is_small_is_not_settled():
    path, one = tethered(1, 30_000, TAIL), torch.ones(1, dtype=torch.float64)
    small, leads = torch.full((3,), 5.0, dtype=torch.float64), torch.ones(1, 3, dtype=torch.bool)
    run = slopes.analyse(path, one, 1.0, small, leads)
    assert run.lag.min() > 8  # at the first two pairs of windows F / √12 is several times the error over walkers


def test_known_to_a_fifth_is_enough_and_no_less():
    one, small = torch.ones(1, dtype=torch.float64), torch.full((3,), 5.0, dtype=torch.float64)
    leads = torch.ones(1, 3, dtype=torch.bool)
    path = (10 * torch.randn(1, 64, 30, 3, generator=torch.Generator().manual_seed(2)).cumsum(1)).round().int()
    run = slopes.analyse(path, one, 1.0, small, leads)
    assert run.converged.tolist() == [True]
    few = slopes.analyse(path[:, :, :29], one, 1.0, small, leads)
    assert few.reason == (slopes.MORE,)
    # In a large box only the last windows are beyond its relaxation time, where 30 walkers say too little.
    large = torch.full((3,), 2 * math.pi * math.sqrt(50 * 3.0), dtype=torch.float64)
    noisy = slopes.analyse(path, one, 1.0, large, leads)
    assert noisy.reason == (slopes.MORE,)


def test_every_axis_waits_for_the_longest_edge_to_relax():
    one, leads = torch.ones(1, dtype=torch.float64), torch.ones(1, 3, dtype=torch.bool)
    path = (10 * torch.randn(1, 64, 400, 3, generator=torch.Generator().manual_seed(2)).cumsum(1)).round().int()
    edge = 2 * math.pi * math.sqrt(50 * 1.5)  # relaxed after 1.5 checkpoints at D = 50: windows from a lag of 3 on
    for box, least in (([5.0, 5.0, 5.0], 4), ([5.0, edge, 5.0], 8)):  # the later window of a pair
        run = slopes.analyse(path, one, 1.0, torch.tensor(box, dtype=torch.float64), leads)
        assert run.lag.tolist() == [[least] * 3]


def test_only_windows_after_a_pair_speak_against_it():
    # Slopes of all walkers rise by as much from window to window, so even the least difference counts: a pair leads to
    # more than either of its own windows, and to less than any later one. Here the first pair has not relaxed.
    rise, spread = 0.01 * torch.arange(5.0).double(), torch.linspace(-20, 20, 100).double()
    windows = (50 + rise[:, None, None] + spread).expand(1, 5, 3, 100)
    ends = windows[:, 1:] + 0.01 * slopes.AHEAD
    doubts, error = torch.full((1, 4, 3), 0.01 / math.sqrt(12)).double(), slopes._standard_error(windows)
    lags, leads = torch.tensor([[2.0, 4.0, 8.0, 16.0, 32.0]]).double(), torch.ones(1, 3, dtype=torch.bool)
    edge = 2 * math.pi * math.sqrt(50 * 1.5)  # relaxed after 1.5 checkpoints: windows from a lag of 3 on
    first, _ = slopes._settle(windows, ends, doubts, error, lags, torch.full((3,), edge), leads)
    assert first.tolist() == [[1, 1, 1]]


def test_nothing_is_read_only_where_it_is_known_to_a_hundredth_of_the_fastest_axis():
    one, small = torch.ones(1, dtype=torch.float64), torch.full((3,), 5.0, dtype=torch.float64)
    leads = torch.ones(1, 3, dtype=torch.bool)
    for jitter, enough in ((3.0, True), (60.0, False)):  # along z walkers stay where they are, but for noise
        generator = torch.Generator().manual_seed(3)
        path = 10 * torch.randn(1, 64, 400, 3, generator=generator).cumsum(1)
        path[..., 2] = jitter * torch.randn(1, 64, 400, generator=generator)
        run = slopes.analyse(path.round().int(), one, 1.0, small, leads)
        assert ((run.slopes[0, 1:, 2].abs() <= 2 * run.slope_errors[0, 1:, 2]).sum() >= 2) or enough
        assert run.converged.tolist() == [enough]
