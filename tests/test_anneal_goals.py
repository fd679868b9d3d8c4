"""anneal.py after other goals: objectives, caution, ascent."""

import math
import sys
import types

import anneal_runs as runs
import pytest
import torch
from anneal_runs import BOX, ROOT, contents, read

import gpuion
from gpuion.objectives import Objective, attained
from gpuion.predictor import Predictor

script, data, go = runs.script, runs.data, runs.go


class Axes(Predictor):
    """A stand-in that predicts D* along the axes, and a relative spread that is the larger the higher D* is."""

    per_axis = True
    per_spread = 0.5

    def __init__(self):
        super().__init__({}, 1)

    def prepare(self, centers, box, diameter):  # noqa: ARG002
        return (torch.cos(centers * (2 * math.pi / box)),)

    def forward(self, high):
        return (4 + high.sum(1)) / 10

    def predict(self, centers, *, box, diameter, batch):  # noqa: ARG002
        with torch.no_grad():
            D = torch.cat([self(*self.prepare(c[None], box, diameter)) for c in centers])
        mean = D.mean(-1).double()
        return types.SimpleNamespace(d_star=mean, d_star_axes=D.double(), spread=mean * self.per_spread)


@pytest.fixture
def axes(go, script, monkeypatch):
    net = Axes()
    net.meta = go.net.meta
    monkeypatch.setattr(script.gpuion, "load_surrogate", lambda *_: net)
    return net


@pytest.mark.parametrize(("name", "d"), [("x", "max"), ("even", "min"), ("target", "min")])
def test_a_goal_of_the_network_ends_in_labels_of_its_own_family(go, axes, data, capsys, name, d):
    out = go("--objective", name, *(["--target", "0.5"] if name == "target" else []))
    goal = Objective(name=name, maximize=d == "max", target=0.5 if name == "target" else None)
    found, known = gpuion.open_dataset(out), gpuion.open_dataset(data)
    assert set(found.family) == {f"annealed-{name}"}
    assert len(found) == 5
    # What a shard calls predicted is D* whatever the chains went by.
    D = torch.cat([axes(*axes.prepare(c[None], BOX, 1.0)) for c in found.centers]).detach()
    assert torch.equal(found.predicted, D.mean(-1).double())
    most = max if d == "max" else min
    summary, traces = read(out, "summary.json"), read(out, "traces.json")
    best = most(row[-1] for row in traces[d]["best_trace"])
    assert set(traces) == {d}
    assert summary[d]["objective"] == name
    assert summary[d]["predicted"] == best == most(goal.value(D[:2]).tolist())
    exact = attained(goal, found)
    assert summary[d]["exact"] == float(exact[goal.value(D[:2]).tolist().index(best)])
    assert summary[d]["best"] == most(exact.tolist())
    assert summary[d]["data"] == most(attained(goal, known).tolist())
    assert summary[d].get("target") == goal.target
    assert "mape" in summary["all"]
    assert f"{d} of {name}: best predicted {best:.4g}, exact" in capsys.readouterr().out
    assert contents(go("--objective", name, *(["--target", "0.5"] if name == "target" else []))) == contents(out)


def test_a_goal_of_the_exact_solver_is_met(go, data):
    out = go(
        "--objective", "z", "--score", "exact", "--checkpoint", "", "--cycles", "2", "--steps", "10", "--start", "data"
    )
    summary, known = read(out, "summary.json"), gpuion.open_dataset(data)
    goal = Objective(name="z")
    assert summary["max"]["data"] == float(attained(goal, known).max())
    # Chains start from the data's best by the objective; labels agree with what chains went by to both tolerances.
    best = max(row[-1] for row in read(out, "traces.json")["max"]["best_trace"])
    assert best >= summary["max"]["data"] - 0.03
    assert summary["max"]["best"] == pytest.approx(best, abs=0.03)


def test_caution_makes_chains_go_by_less_than_is_predicted(go, axes):
    out = go("--maximize", "--caution", "1")
    found = gpuion.open_dataset(out)
    best = torch.tensor([row[-1] for row in read(out, "traces.json")["max"]["best_trace"]], dtype=torch.float64)
    foreseen = found.predicted[:2]
    assert torch.allclose(best, foreseen * (1 - axes.per_spread * foreseen), rtol=1e-6)
    # D (1 − D/2) rises up to D* = 1, so such chains go another way than those without caution only beyond it.
    assert found.family.tolist() == ["annealed-max"] * 5


def test_an_ascent_starts_chains_higher(go):
    first = {}
    for start in ("random", "ascent"):
        out = go("--score", "exact", "--checkpoint", "", "--start", start, "--steps", "1", "--cycles", "1", out=start)
        traces = read(out, "traces.json")
        first[start] = [traces[d]["trace"][k][0] for d in ("max", "min") for k in range(2)]
        assert (out / "start-max-0of1.pt").exists() == (start == "ascent")
    assert all(first["ascent"][k] > first["random"][k] + 0.05 for k in (0, 1))
    assert all(first["ascent"][k] < first["random"][k] for k in (2, 3))


def test_without_a_checkpoint_the_network_that_comes_with_gpuion_leads_the_way(script, tmp_path, monkeypatch):
    """91 spheres of the study: led along x by the network's own gradient, then by what it is sure of."""
    flags = {"--data": ROOT / "data" / "study", "--out": tmp_path, "--objective": "x", "--start": "ascent"}
    flags |= {"--caution": 1, "--chains": 1, "--cycles": 2, "--steps": 4, "--samples": 1, "--relabel": 0}
    flags |= {"--tolerance": 0.01, "--device": "cpu"}
    monkeypatch.setattr(sys, "argv", ["anneal.py", *(str(word) for pair in flags.items() for word in pair)])
    script.main()
    net, found, goal = gpuion.load_surrogate(), gpuion.open_dataset(tmp_path), Objective(name="x", caution=1.0)
    first = torch.load(tmp_path / "start-max-0of1.pt", weights_only=True)["centers"]
    ((best,),) = ([row[-1] for row in read(tmp_path, "traces.json")["max"]["best_trace"]],)
    for centers, least in ((first, 0.0), (found.centers, best)):
        said = net.predict(centers, box=found.box, diameter=found.diameter)
        spread = said.d_star_axes * said.spread[:, None]
        assert float(goal(said.d_star_axes, spread)) >= least
    assert float(goal(said.d_star_axes, spread)) == best
    assert float(found.predicted) == float(said.d_star)
    # The ascent has made D_x of a random structure the largest by far, and the exact solver says so, too.
    assert float(attained(goal, found)) > 0.1
    assert float(attained(goal, found)) == pytest.approx(float(goal(said.d_star_axes)), rel=0.1)
