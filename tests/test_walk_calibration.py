"""Whether error bars mean what they say: the walk's z-scores against the exact solve over many seeds; its figure."""

import math

import pytest
import torch

import gpuion


def medium(count):
    """The same small medium, two classes and blocked sites, as `count` structures."""
    labels = torch.randint(0, 3, (1, 6, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    labels = labels.expand(count, -1, -1, -1).contiguous()
    return gpuion.Medium(labels, torch.tensor([1.0, 0.4, 1.0]), torch.tensor([0.0, -1.5, math.inf]))


SETTINGS = [{"walkers": 200, "time": 120.0}, {"walkers": 100, "time": "auto", "rtol": 0.03}]


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
def test_error_bars_cover_what_they_claim(setting):
    seeds = 200
    exact = gpuion.homogenize(medium(1), tolerance=1e-6).diffusivity
    run = gpuion.walk(medium(seeds), seed=1, ids=range(1000, 1000 + seeds), **setting)
    print(f"{setting}: {int(run.converged.sum())} of {seeds} converged")
    assert int(run.converged.sum()) > 0.9 * seeds
    for name, value, error, truth in (
        ("axes", run.diffusivity, run.standard_error, exact),
        ("mean", run.mean, run.mean_error, exact.mean(-1)),
    ):
        z = ((value - truth) / error)[run.converged].flatten()
        print(f"{name}: n = {len(z)}, mean z {float(z.mean()):.2f}, rms {float(z.square().mean().sqrt()):.2f}")
        for sigmas in (1, 2):
            claimed = math.erf(sigmas / math.sqrt(2))
            covered = float((z.abs() < sigmas).double().mean())
            # The axes of a walk count as three: an ion hops along one at a time.
            spread = math.sqrt(claimed * (1 - claimed) / len(z))
            print(f"  within {sigmas} sigma: {covered:.3f}, claimed {claimed:.3f} ± {3 * spread:.3f}")
            assert abs(covered - claimed) < 3 * spread


@pytest.mark.slow
@pytest.mark.parametrize(("share", "low", "high"), [(0.4, 1.0, 1.4), (0.6, 0.9, 1.1)])
def test_error_bars_are_short_near_the_percolation_threshold_alone(share, low, high):
    # Of ten media of each share z of the mean has an rms of 1.25 and 0.99; ± 0.04 is the spread of 300 normal ones.
    found = []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        labels = (torch.rand(1, 10, 10, 10, generator=generator) > share).to(torch.uint8)
        media = gpuion.Medium(labels.expand(100, -1, -1, -1), torch.ones(2), torch.tensor([0.0, math.inf]))
        exact = gpuion.homogenize(media[:1], tolerance=1e-6).diffusivity.mean(-1)
        run = gpuion.walk(media, walkers=100, time="auto", rtol=0.05, seed=1, max_attempts=3e7)
        found.append(((run.mean - exact) / run.mean_error)[run.converged])
    z = torch.cat(found)
    rms = float(z.square().mean().sqrt())
    print(f"{share} open: {len(z)} walks, rms z {rms:.2f}, mean z {float(z.mean()):+.2f}")
    assert len(z) > 250
    assert low < rms < high


def test_the_plateau_is_drawn_with_the_window_that_was_read():
    plots = pytest.importorskip("gpuion.plots")
    pytest.importorskip("matplotlib")
    one = medium(1)
    run = gpuion.walk(one, walkers=200, time=120.0)
    exact = gpuion.homogenize(one).diffusivity[0].numpy()
    parts = [x[0].numpy() for x in (run.lags, run.slopes, run.slope_errors, run.lag)]
    figure = plots.plateau(*parts, exact=exact)
    axes = figure.axes[0]
    rings = [line for line in axes.lines if line.get_markersize() == 11]
    assert [float(ring.get_ydata()[0]) for ring in rings] == run.diffusivity[0].tolist()
    bars = [container for container in axes.containers if container.has_yerr]
    assert len(bars) == 3
    heights = bars[1].lines[2][0].get_segments()
    assert [float(s[1, 1] - s[0, 1]) / 2 for s in heights] == pytest.approx(run.slope_errors[0, :, 1].tolist())
    assert plots.svg(figure).startswith(b"<?xml")
    plots.plateau(*parts)
