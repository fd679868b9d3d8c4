import math
from itertools import permutations, product

import pytest
import torch

import gpuion
from gpuion.layers import FeatureNorm, RadialSpectrum, TiedConv

pytestmark = pytest.mark.usefixtures("single_thread")  # tiny layers lose more to waking threads than they win


def images(B, V, seed=0):
    return (torch.rand(B, 1, V, V, V, generator=torch.Generator().manual_seed(seed)) < 0.2).float()


def trained(boundary="periodic", **options):
    """Return a network with random running statistics, as if trained, in evaluation mode."""
    torch.manual_seed(1)
    net = gpuion.Surrogate(boundary, **options)
    net.train()
    net(images(8, options.get("voxels", 20)))
    return net.eval()


def symmetries():
    """Return the 48 ways to turn and mirror the last three axes."""
    for order, signs in product(permutations(range(3)), product([False, True], repeat=3)):
        flips = [2 + axis for axis, flip in enumerate(signs) if flip]
        yield lambda x, order=order, flips=flips: x.permute(0, 1, *(2 + axis for axis in order)).flip(flips)


def test_periodic_does_not_change_under_the_48_symmetries_of_the_cube():
    # In float64 only the order of sums differs: about 1e3 terms a feature, 1e3 · 1e-16, and 1e-12 leaves room.
    net, image = trained().double(), images(3, 20).double()
    expected = net(image)
    moved = [net(turn(image)) for turn in symmetries()]
    assert len(moved) == 48
    for value in moved:
        assert torch.allclose(value, expected, rtol=0, atol=1e-12)
    # Structures must be told apart, or the test above says nothing.
    assert expected.std() > 1e-4


def test_the_paper_network_does_change_when_turned():
    net, image = trained("zero", voxels=16).double(), images(1, 16).double()
    assert (net(image) - net(image.flip(2))).abs() > 1e-6  # round-off is 1e-12


def test_periodic_does_not_change_when_rolled_by_whole_windows():
    net, image = trained().double(), images(2, 20).double()
    rolled = net(image.roll((5, -10, 15), (2, 3, 4)))
    assert torch.allclose(rolled, net(image), rtol=0, atol=1e-12)
    assert not torch.allclose(net(image.roll(2, 2)), net(image), rtol=0, atol=1e-9)


def test_periodic_takes_cells_of_other_sizes_and_a_doubled_cell_is_the_same():
    net, image = trained().double(), images(2, 25).double()
    assert net(images(1, 50).double()).shape == (1,)
    assert net(images(1, 75).double()).shape == (1,)
    assert torch.allclose(net(gpuion.tile(image, 2)), net(image), rtol=0, atol=1e-12)


def test_alone_or_in_a_batch():
    net, image = trained().double(), images(5, 20).double()
    alone = torch.cat([net(image[b : b + 1]) for b in range(5)])
    assert torch.allclose(alone, net(image), rtol=0, atol=1e-12)


def test_tied_convolution_is_a_sum_over_periodic_neighbours():
    torch.manual_seed(0)
    layer, x = TiedConv(2, 3).double(), torch.rand(1, 2, 5, 5, 5, dtype=torch.float64)
    expected = layer.bias.view(1, 3, 1, 1, 1).expand(1, 3, 5, 5, 5).clone()
    for step in product((-1, 0, 1), repeat=3):
        weight = layer.weight[:, :, sum(map(abs, step))]
        expected += torch.einsum("oi,bixyz->boxyz", weight, x.roll(step, (2, 3, 4)))
    # 54 products of order 1 in float64.
    assert torch.allclose(layer(x), expected, rtol=0, atol=1e-13)


def test_feature_norm_is_batch_norm():
    torch.manual_seed(0)
    ours, theirs = FeatureNorm(4).double(), torch.nn.BatchNorm1d(4).double()
    x = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    weights = torch.randn(6, 4, dtype=torch.float64)
    for _ in range(2):
        (ours(x) * weights).sum().backward()
        (theirs(y) * weights).sum().backward()
    # Sums of six float64 values of order 1 over deviations of order 1: some 1e-15 each.
    for a, b in (
        (ours(x), theirs(y)),
        (x.grad, y.grad),
        (ours.running_mean, theirs.running_mean),
        (ours.running_var, theirs.running_var),
        (ours.eval()(x), theirs.eval()(y)),
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


@pytest.mark.parametrize("boundary", ["tiled", "zero"])
def test_the_paper_network(boundary):
    torch.manual_seed(0)
    net = gpuion.Surrogate(boundary, voxels=16, widths=(2, 3, 4, 5), hidden=6)
    edge = 16 * (3 if boundary == "tiled" else 1) // 16
    assert net.hidden.in_features == 5 * edge**3
    assert [m.out_channels for m in net.modules() if isinstance(m, torch.nn.Conv3d)] == [2, 3, 4, 5]
    image = images(2, 16)
    value = net(image)
    assert value.shape == (2,)
    if boundary == "tiled":  # the same weights on an image that was tiled by hand
        net.body.repeats, net.body.voxels = 1, 48
        assert torch.equal(net(gpuion.tile(image, 3)), value)


def test_a_step_of_training_does_not_move_the_hidden_units_of_the_paper_network_all_at_once():
    torch.manual_seed(0)
    centers = gpuion.place("random", n_structures=16, n_particles=12, box=32.0, diameter=8.0, seed=0)
    image = gpuion.voxelize(centers, box=32.0, diameter=8.0, voxels=32).float()
    net, target = gpuion.Surrogate("zero", voxels=32), torch.linspace(0.1, 0.9, 16)
    net.calibrate(target)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    before = net.hidden(net.body(image)).detach()
    net.loss(net(image), target).mean().backward()
    optimizer.step()
    common = (net.hidden(net.body(image)).detach() - before).mean(0).abs().mean()
    # In units of what structures differ by: 4 to 9 without the normalisation, and in steps the ReLUs are all off.
    assert common < 0.1 * before.std(0).mean()


@pytest.mark.parametrize("boundary", ["periodic", "zero"])
def test_calibrate_sets_the_scale_of_the_output(boundary):
    net = gpuion.Surrogate(boundary, voxels=16 if boundary == "zero" else None)
    target = torch.tensor([0.1, 0.4, 0.7])
    net.calibrate(target)
    middle = target.log().mean().exp() if boundary == "periodic" else target.mean()
    assert net.target_scale == pytest.approx(0.3)
    torch.nn.init.zeros_(net.output.weight)
    torch.nn.init.zeros_(net.output.bias)
    # The exponential of a float32 of size 1 is off by an ulp or two.
    assert torch.allclose(net(images(2, 16 if boundary == "zero" else 15)), middle, rtol=1e-6)


def test_the_default_predicts_positive_numbers_and_counts_their_logarithm():
    net, paper = gpuion.Surrogate(), gpuion.Surrogate("zero", voxels=16)
    with torch.no_grad():
        net.output.bias -= 20
    assert bool((net(images(3, 15)) > 0).all())
    y, t = torch.tensor([0.2, 1.0]), torch.tensor([0.1, 1.5])
    assert torch.allclose(paper.loss(y, t), (y - t) ** 2)
    assert torch.allclose(net.loss(y, t), (y - t) ** 2 + (y / t).log() ** 2)
    assert bool(torch.isfinite(net.loss(y, torch.zeros(2))).all())


def test_gradients_reach_every_weight():
    net = gpuion.Surrogate()
    net(images(4, 20)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters() if p.ndim > 1)


def test_bad_arguments():
    with pytest.raises(ValueError, match="periodic, tiled, zero"):
        gpuion.Surrogate("open")
    with pytest.raises(ValueError, match="needs the number of voxels"):
        gpuion.Surrogate("tiled")
    with pytest.raises(ValueError, match="cannot be halved"):
        gpuion.Surrogate("zero", voxels=8)
    with pytest.raises(ValueError, match="≥ 1"):
        gpuion.Surrogate(widths=(4, 0))
    with pytest.raises(ValueError, match="16 voxels are not"):
        gpuion.Surrogate()(images(1, 16))
    with pytest.raises(ValueError, match="shape"):
        gpuion.Surrogate()(torch.zeros(1, 15, 15, 15))
    with pytest.raises(ValueError, match="images of 16 voxels"):
        gpuion.Surrogate("zero", voxels=16)(images(1, 32))


def test_radial_spectrum_of_a_plane_wave():
    """n waves along each of two axes have all their power, V³ / 4 each way, at |k| = 2π√2 n / V."""
    V, n = 50, 3
    x = torch.arange(V, dtype=torch.float64)
    image = torch.cos(2 * math.pi * n * (x[:, None] + x) / V).expand(V, V, V)[None, None]
    spectrum = RadialSpectrum()(image)[0].exp() - 1e-6
    expected = torch.zeros(RadialSpectrum.SHELLS, dtype=torch.float64)
    place = math.sqrt(2) * n  # between shells 4 and 5
    for shell in (4, 5):
        expected[shell - 1] = 2 * V**3 / 4 * (1 - abs(place - shell)) / (4 * math.pi * (shell**2 + 1 / 6))
    assert torch.allclose(spectrum, expected, rtol=1e-10, atol=1e-12)
