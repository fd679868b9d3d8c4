"""What annealing can be after, from hand-made D*, on the exact solver and on a model that knows axes and its doubt."""

import math
import types

import pytest
import torch
from test_annealing import equal, lattice_start, run
from test_scores import Told, plain

import gpuion
from gpuion.errors import ConfigError
from gpuion.objectives import DIRECTIONS, Objective, aim, attained, check_target, goals
from gpuion.resistors import ResistorNetwork
from gpuion.scores import Each, IncrementalScore
from gpuion.scoring import exact_score, surrogate_score
from gpuion.starts import check_goals, extreme

D = torch.tensor([[0.2, 0.4, 0.9], [0.5, 0.5, 0.5], [0.0, 0.0, 0.0]], dtype=torch.float64)
SPREAD = torch.tensor([[0.01, 0.02, 0.03], [0.1, 0.1, 0.1], [0.0, 0.0, 0.0]], dtype=torch.float64)
VALUES = {
    "mean": [0.5, 0.5, 0.0],
    "target": [0.2, 0.2, 0.3],
    "x": [0.2 - 0.65, 0.0, 0.0],
    "y": [0.4 - 0.55, 0.0, 0.0],
    "z": [0.9 - 0.3, 0.0, 0.0],
    "even": [0.7 / 0.5, 0.0, 0.0],
}
DOUBTS = {
    "mean": [0.02, 0.1, 0.0],
    "target": [0.02, 0.1, 0.0],
    "x": [0.01 + 0.025, 0.2, 0.0],
    "y": [0.02 + 0.02, 0.2, 0.0],
    "z": [0.03 + 0.015, 0.2, 0.0],
    "even": [0.04 / 0.5, 0.2 / 0.5, 0.0],
}


def objective(name, **options):
    return Objective(name=name, target=0.3 if name == "target" else None, **options)


@pytest.mark.parametrize("name", DIRECTIONS)
def test_an_objective_is_what_its_line_says(name):
    near = pytest.approx(VALUES[name], abs=1e-15)
    assert objective(name)(D).tolist() == near
    assert objective(name, caution=3.0)(D).tolist() == near  # no spread, no caution
    assert objective(name)(D, SPREAD).tolist() == near
    for maximize in (True, False):
        cautious = objective(name, maximize=maximize, caution=1.5)(D, SPREAD)
        worse = [v + (-1.5 if maximize else 1.5) * s for v, s in zip(VALUES[name], DOUBTS[name], strict=True)]
        assert cautious.tolist() == pytest.approx(worse, abs=1e-15)
    if not objective(name).per_axis:  # then the mean alone will do
        assert torch.allclose(
            objective(name, caution=1.0)(D.mean(-1), SPREAD.mean(-1)), objective(name, caution=1.0)(D, SPREAD)
        )


def test_the_spread_of_an_objective_is_no_less_than_what_errors_make_of_it():
    """Errors of one deviation along each axis, of any signs: the worst of 8 corners is the spread."""
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 3)
    small = SPREAD[:1] * 1e-3
    for name in ("mean", "target", "x", "y", "z"):
        goal = objective(name)
        worst = float((goal.value(D[:1] + corners * small) - goal.value(D[:1])).abs().max())
        assert worst == pytest.approx(float(goal.doubt(D[:1], small)), rel=1e-9)


def test_goals_say_where_to_go():
    assert {d: (g.name, g.maximize, g.family) for d, g in goals("mean", "both", None, 0.0).items()} == {
        "max": ("mean", True, "max"), "min": ("mean", False, "min"),
    }  # fmt: skip
    assert list(goals("mean", "min", None, 0.0)) == ["min"]
    assert {n: list(goals(n, "both", 0.4 if n == "target" else None, 1.0)) for n in DIRECTIONS if n != "mean"} == {
        "target": ["min"], "x": ["max"], "y": ["max"], "z": ["max"], "even": ["min"],
    }  # fmt: skip
    assert goals("target", "min", 0.4, 0.0)["min"].family == "target"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("best", "both", None, 0.0), "objective must be one of mean, target, x, y, z, even, got 'best'"),
        (("x", "min", None, 0.0), "--minimize does not go with objective 'x'"),
        (("target", "max", 0.5, 0.0), "--maximize does not go"),
        (("mean", "up", None, 0.0), "direction 'up'"),
        (("target", "both", None, 0.0), "target is for objective"),
        (("mean", "both", 0.5, 0.0), "target is for objective"),
        (("mean", "both", None, -1.0), "caution must be 0 or more"),
        (("mean", "both", None, math.nan), "caution must be 0 or more"),
    ],
)
def test_goals_that_make_no_sense_are_refused(given, says):
    with pytest.raises(ConfigError, match=says):
        goals(*given)


@pytest.mark.parametrize("given", [{"name": "target"}, {"name": "x", "target": 0.2}])
def test_a_target_goes_with_its_name(given):
    with pytest.raises(ValueError, match="a target goes with the name 'target' alone"):
        gpuion.Objective(**given)


@pytest.mark.parametrize("target", [0.0, -0.1, 5.0, 6.0, math.nan])
def test_a_target_that_nothing_can_have_is_refused(target):
    """D is at most that of the solvent, 1: D* at most 1 / 0.2."""
    with pytest.raises(ConfigError, match="between 0 and 5"):
        check_target(target, gpuion.TransportModel(), 0.2)
    check_target(4.99, gpuion.TransportModel(), 0.2)
    check_target(5.5, gpuion.TransportModel(shell_diffusivity=2.0), 0.2)
    check_target(None, gpuion.TransportModel(), 0.2)


def axes(centers):
    """A deterministic D* along the axes, float64 [C, 3]: sums in a fixed order."""
    part = 1 + torch.cos(centers.double() * 0.5)
    total = torch.zeros(len(centers), 3, dtype=torch.float64)
    for i in range(centers.shape[1]):
        total = total + part[:, i] * (i + 1)
    return total / 100


@pytest.mark.parametrize("name", DIRECTIONS)
def test_annealing_moves_towards_its_objective(name):
    start = lattice_start(4, 8, 12, 3)
    goal = objective(name, maximize="max" in DIRECTIONS[name])
    result = run(start, score=aim(axes, goal), maximize=goal.maximize, cycles=4, steps=150, temperature=1e-3)
    before, after = goal(axes(start)), goal(axes(result.best_centers))
    assert torch.equal(after, result.best_score)
    assert bool((after > before if goal.maximize else after < before).all())
    if name == "target":  # D* moves by some 0.01 a step, so one within half of that is met
        assert float(after.max()) < 0.01
    if name == "z":
        D = axes(result.best_centers)
        assert bool((D[:, 2] > 2 * D[:, :2].amax(1)).all())


def test_any_function_of_d_is_an_objective_and_scores_keep_their_kind():
    start = lattice_start(4, 8, 12, 3)

    def ratio(D):
        return D[:, 0] / D[:, 1]

    by_hand = run(start, score=lambda c: ratio(axes(c)))
    assert equal(run(start, score=aim(axes, ratio)), by_hand)
    assert equal(run(start, score=aim(Each(axes), ratio)), by_hand)
    assert isinstance(aim(Each(axes), ratio), Each)
    told = aim(Told(), Objective(name="target", target=0.4))
    assert isinstance(told, IncrementalScore)
    setting = {"diameter": 2.6, "maximize": False}
    expected = run(start, score=lambda c: (plain(c) - 0.4).abs(), **setting)
    assert equal(run(start, score=told, **setting), expected)


def test_a_score_that_gives_its_doubt_is_taken_with_caution():
    """The doubt is what x gives; with one deviation off, D* of the score is what y and z give."""
    start = lattice_start(4, 8, 12, 3)
    pair = aim(lambda c: (axes(c).sum(-1), axes(c)[:, 0]), Objective(caution=1.0))
    setting = {"temperature": 1e-9, "cycles": 1, "steps": 100}
    sure, alone = run(start, score=pair, **setting), run(start, score=lambda c: axes(c)[:, 1:].sum(-1), **setting)
    assert torch.equal(sure.best_centers[..., 1:], alone.best_centers[..., 1:])


@pytest.fixture(scope="module")
def like():
    centers = gpuion.place("random", n_structures=3, n_particles=10, box=40.0, diameter=9.6, seed=1)
    D = torch.tensor([[0.1, 0.2, 0.6], [0.3, 0.3, 0.36], [0.8, 0.9, 0.7]], dtype=torch.float64)
    return gpuion.Dataset(
        centers=centers, diffusivity=D, standard_error=torch.ones(3, 3), id=torch.arange(3), family=None,
        distance=torch.ones(3, 2), gap=torch.ones(3), axes=torch.ones(3, 3), box=40.0, diameter=9.6,
        sites_per_voxel=1, method="exact", d_reference=0.8, converged=torch.tensor([True, True, False]),
    )  # fmt: skip


def test_what_data_reach_is_by_their_labels_that_settled(like):
    assert attained(Objective(), like).tolist() == like.d_star.tolist()
    assert extreme(like, maximize=True) == pytest.approx(0.4)
    assert extreme(like, maximize=False, objective=objective("even")) == pytest.approx(0.06 / 0.32)
    assert extreme(like, maximize=True, objective=objective("z")) == pytest.approx(0.45 / 0.8)
    assert extreme(like, maximize=False, objective=objective("target")) == pytest.approx(
        0.3 - 0.3 / 0.8 + 0.15, abs=0.2
    )


def test_axes_of_model_and_solver_have_the_mean_that_they_are_known_by(like):
    net = ResistorNetwork(hidden=8).eval()
    x = like.centers
    along, mean = (surrogate_score(net, like, 4, per_axis=p)(x) for p in (True, False))
    assert along.shape == (3, 3)
    assert torch.equal(along.mean(-1), mean)
    along, mean = (exact_score(like, 1e-2, per_axis=p)(x) for p in (True, False))
    assert torch.allclose(along.mean(-1), mean, rtol=1e-14)


class Unsure(ResistorNetwork):
    """A network that says how sure it is of each structure, in relative terms."""

    relative = 0.1

    def predict(self, centers, *, box, diameter, batch):  # noqa: ARG002
        with torch.no_grad():
            D = torch.cat([self(*self.prepare(c[None], box, diameter)) for c in centers]).double()
        return types.SimpleNamespace(
            d_star=D.mean(-1), d_star_axes=D, spread=torch.full((len(D),), self.relative).double()
        )


def test_a_model_that_is_unsure_scores_less_by_its_own_measure(like):
    net, x = Unsure(hidden=8).eval(), like.centers
    mean = surrogate_score(net, like, 4)(x).double()
    for maximize, factor in ((True, 0.8), (False, 1.2)):
        cautious = aim(surrogate_score(net, like, 4, doubt=True), Objective(maximize=maximize, caution=2.0))
        assert torch.allclose(cautious(x), mean * factor, rtol=1e-6)
    along = surrogate_score(net, like, 4, per_axis=True)(x).double()
    goal = Objective(name="y", caution=2.0)
    cautious = aim(surrogate_score(net, like, 4, per_axis=True, doubt=True), goal)(x)
    expected = goal.value(along) - 0.2 * (along[:, 1] + (along[:, 0] + along[:, 2]) / 2)
    assert torch.allclose(cautious, expected, rtol=1e-6)


def test_models_that_cannot_serve_an_objective_are_refused(like):
    axis, cautious = {"max": objective("x")}, {"max": Objective(caution=1.0)}
    image = gpuion.Surrogate(pool=5)
    with pytest.raises(ConfigError, match="--model network, or use --score exact"):
        check_goals(axis, like, image)
    check_goals(axis, like, None)
    check_goals(axis, like, ResistorNetwork(hidden=8))
    with pytest.raises(ConfigError, match="the exact solver is sure"):
        check_goals(cautious, like, None)
    net = Unsure(hidden=8)
    check_goals(cautious, like, net)
    net.relative = math.nan
    with pytest.raises(ConfigError, match="knows how sure it is"):
        check_goals(cautious, like, net)
    with pytest.raises(ConfigError, match="knows how sure it is"):
        check_goals(cautious, like, image)
    with pytest.raises(ConfigError, match=r"between 0 and 1\.25"):
        check_goals({"min": Objective(name="target", target=2.0)}, like, None)
