"""Starts that were led uphill: better than where they came from, apart, the same alone and in a batch."""

import dataclasses

import pytest
import torch

import gpuion
from gpuion import ascent
from gpuion.labeling import label
from gpuion.medium import TransportModel
from gpuion.objectives import Objective, attained
from gpuion.predictor import Predictor
from gpuion.starts import starts, starts_of

BOX, DIAMETER, N = 12.0, 4.0, 4


@pytest.fixture(scope="module")
def like():
    centers = gpuion.place("random", n_structures=4, n_particles=N, box=BOX, diameter=DIAMETER, seed=3)
    setting = {"box": BOX, "diameter": DIAMETER, "sites_per_voxel": 1, "model": TransportModel(affinity=4.0)}
    found = label(centers, **setting, tolerance=1e-3)
    return gpuion.Dataset(
        centers=centers, diffusivity=found.diffusivity, standard_error=found.standard_error, id=torch.arange(4),
        family=None, distance=torch.ones(4, 2), gap=torch.ones(4), axes=torch.ones(4, 3), method="exact",
        d_reference=0.5, **setting,
    )  # fmt: skip


class Hill(Predictor):
    """D* along each axis: the more, the nearer the spheres are to the middle of the box along it."""

    per_axis = True

    def __init__(self, has_gradient=True):
        super().__init__({}, 1)
        self.has_gradient = has_gradient
        self.asked = []

    def prepare(self, centers, box, diameter):  # noqa: ARG002
        self.asked.append(len(centers))
        return (torch.cos((centers - box / 2) * (6.283185 / box)),)

    def forward(self, high):
        D = (2 + high).sum(1) / 100
        return D if self.has_gradient else D.round(decimals=1)


def smallest(centers):
    apart = (centers[:, :, None].double() - centers[:, None].double()).abs()
    square = torch.minimum(apart, BOX - apart).square().sum(-1)
    return square.masked_fill(torch.eye(N, dtype=torch.bool), torch.inf).min().sqrt()


@pytest.mark.parametrize(
    "goal",
    [
        Objective(), Objective(maximize=False), Objective(name="x"), Objective(name="even", maximize=False),
        Objective(name="target", maximize=False, target=0.09),
    ],
    ids=lambda goal: f"{goal.name}-{goal.direction}",
)  # fmt: skip
def test_structures_are_led_towards_their_objective(like, goal):
    hill = Hill()
    climb = ascent.gradient(hill, like, goal)
    found = ascent.ascend(climb, like.centers, goal, box=BOX, diameter=DIAMETER)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert float(smallest(found)) >= DIAMETER
    before, after = (goal(hill(*hill.prepare(x, BOX, DIAMETER))) for x in (like.centers, found))
    assert bool((after > before if goal.maximize else after < before).all())
    if goal.name == "target":  # strides shrink to 0.9^20 = 0.12 voxels, each worth some 4 · 2π/12 · 0.12 / 300
        assert float(after.max()) < 1e-3
    alone = ascent.ascend(climb, like.centers[2:3], goal, box=BOX, diameter=DIAMETER)
    assert torch.equal(alone[0], found[2])


def test_a_climb_follows_its_gradient_and_keeps_the_best():
    """The height exp(−r²) of one sphere's distance from a point is highest there."""
    aim = torch.tensor([5.0, 6.0, 7.0]).double()
    x, trace = ascent.climb(
        lambda x: (-(x[:, 0] - aim).square().sum(-1) / 9).exp(), torch.tensor([[6.0, 7.5, 6.0]]), box=20.0,
        diameter=2.0, steps=60, stride=0.5,
    )  # fmt: skip
    # The last stride is 0.01 voxels; the steps before overshoot by some of them.
    assert float((x[0] - aim).norm()) < 0.1
    # Positions are rounded to 2.4e-7, where the height falls by at most 0.1 · 2 / 9 a voxel.
    assert max(trace) == pytest.approx(float((-(x[0] - aim).square().sum() / 9).exp()), abs=1e-8)
    with pytest.raises(ValueError, match="positive"):
        ascent.climb(lambda x: x.sum((1, 2)), torch.zeros(1, 3), box=9.0, diameter=1.0, steps=0)


def test_strides_shrink_and_the_best_on_the_way_is_returned():
    x = torch.tensor([[[2.0, 5.0, 5.0]]])
    setting = {"box": BOX, "diameter": DIAMETER}
    slope = ascent.ascend(lambda c: c[:, 0, 0] / 10, x, Objective(), steps=3, **setting)
    # A lone sphere in an even slope: 1 / 1.1 of strides 1, 0.02^(1/3), 0.02^(2/3), and none after the last look.
    assert slope[0, 0].tolist() == pytest.approx([2 + (1 + 0.02 ** (1 / 3) + 0.02 ** (2 / 3)) / 1.1, 5, 5], rel=1e-6)
    down = ascent.ascend(lambda c: c[:, 0, 0] / 10, slope, Objective(maximize=False), steps=3, **setting)
    assert down[0, 0].tolist() == pytest.approx([2, 5, 5], rel=1e-6)
    last = ascent.ascend(lambda c: -(c[:, 0, 0] - 2.1).square(), x, Objective(), steps=1, **setting)
    assert torch.equal(last, x)


def test_a_hill_that_is_flat_is_left_as_it_is(like):
    flat = ascent.ascend(lambda x: x.sum((1, 2)) * 0 + 1, like.centers, Objective(), box=BOX, diameter=DIAMETER)
    assert torch.equal(flat, like.centers)


@pytest.mark.parametrize("goal", [Objective(), Objective(name="z")], ids=lambda goal: goal.name)
def test_the_exact_gradient_leads_to_higher_labels(like, goal):
    found = ascent.ascend(
        ascent.exact_gradient(like, 1e-2), like.centers[:2], goal, box=BOX, diameter=DIAMETER, steps=8
    )
    setting = {name: getattr(like, name) for name in ("box", "diameter", "sites_per_voxel", "model")}
    D = label(found, **setting, tolerance=1e-3).diffusivity
    after = attained(goal, dataclasses.replace(like.subset([0, 1]), diffusivity=D))
    assert bool((after > attained(goal, like)[:2] + 0.05).all())  # labels are good to 0.1%


def test_a_model_without_gradients_leaves_it_to_the_exact_solver(like):
    assert ascent.gradient(Hill(), like, Objective()).__qualname__.startswith("gradient")
    for net in (None, Hill(has_gradient=False), gpuion.Surrogate(pool=2)):
        assert ascent.gradient(net, like, Objective()).__qualname__.startswith("exact_gradient")
    mean = Hill()
    mean.per_axis = False
    assert ascent.gradient(mean, like, Objective(name="x")).__qualname__.startswith("exact_gradient")


def test_starts_of_an_ascent_are_kept(like, tmp_path):
    hill, ids = Hill(), torch.tensor([4, 0])
    setting = {"seed": 5, "net": hill}
    first = starts(like, ids, "ascent", maximize=True, **setting)
    fresh = starts(like, ids, "random", maximize=True, seed=5)
    up = ascent.gradient(hill, like, Objective())
    assert torch.equal(first, ascent.ascend(up, fresh, Objective(), box=BOX, diameter=DIAMETER))
    path = tmp_path / "start.pt"
    assert torch.equal(starts_of(path, like, ids, "ascent", Objective(), **setting), first)
    hill.asked.clear()
    assert torch.equal(starts_of(path, like, ids, "ascent", Objective(), **setting), first)
    assert not hill.asked
    assert torch.equal(starts_of(tmp_path / "none.pt", like, ids, "random", Objective(), **setting), fresh)
    assert not (tmp_path / "none.pt").exists()
