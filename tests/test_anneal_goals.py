"""anneal.py after other goals: objectives, caution, exchange, ascent; what does not fit; the paper's own rule."""

import contextlib
import dataclasses
import json
import math
import sys
import tomllib
import types

import pytest
import test_anneal_script as whole
import torch
import torch.distributed.run

import gpuion
from gpuion import capacity
from gpuion.capacity import available, check_memory
from gpuion.chains import load_state
from gpuion.config import read_preset
from gpuion.errors import ConfigError
from gpuion.objectives import Objective, attained
from gpuion.predictor import Predictor

script, data, go, contents = whole.script, whole.data, whole.go, whole.contents
BOX = whole.BOX


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


def read(out, name):
    return json.loads((out / name).read_text())


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


def test_runs_of_replicas_exchange_and_say_how_often(go, script, monkeypatch, capsys):
    real, asked = script.anneal, []
    monkeypatch.setattr(script, "anneal", lambda *args, **given: asked.append(given) or real(*args, **given))
    out = go("--exchange", "3", "--exchange-every", "4", "--temperature", "0.05", "--cooling", "0.3")
    summary, traces = read(out, "summary.json"), read(out, "traces.json")
    printed = capsys.readouterr().out
    assert [(given["cooling"], given["replicas"], given["every"]) for given in asked] == [(1.0, 3, 4)] * 2
    for d, odd in (("max", 0), ("min", 1)):
        heat = read(out, f"ladder-{d}.json")["temperatures"]
        assert traces[d]["temperatures"] == heat
        assert heat == sorted(heat)
        assert heat[0] == pytest.approx(0.05 * 0.3**2)
        assert heat[-1] == pytest.approx(0.05)
        assert traces[d]["ids"] == [2 * k + odd for k in range(6)]
        swaps = torch.tensor(traces[d]["swaps"]).view(2, 3, 3)
        rates = swaps.mean((0, 2))[:2].tolist()
        assert summary[d]["swap_rates"] == pytest.approx(rates, rel=1e-6)
        assert f"{d}: neighbours exchanged temperatures at {rates[0]:.0%}, {rates[1]:.0%}" in printed
        assert sorted(row[-1] for row in traces[d]["rung"][:3]) == [0, 1, 2]
        assert f"ladder-{d}: 3 temperatures" in printed
    found = gpuion.open_dataset(out)
    assert found.family.tolist() == ["annealed-max"] * 5 + ["annealed-min"] * 5  # the best of each run, and three more
    for d, part in (("max", slice(0, 2)), ("min", slice(5, 7))):
        most = max if d == "max" else min
        rows = [row[-1] for row in traces[d]["best_trace"]]
        assert found.predicted[part].tolist() == [most(rows[:3]), most(rows[3:])]


def test_a_ladder_too_wide_for_its_replicas_is_named(go, capsys):
    out = go("--maximize", "--exchange", "2", "--temperature", "5", "--cooling", "1e-3", "--chains", "1")
    enough = read(out, "ladder-max.json")["replicas_for_20_percent"]
    assert enough > 3
    assert f"; {enough} replicas, or a narrower range, would exchange in 20%" in capsys.readouterr().out
    go("--maximize", "--exchange", "2", "--temperature", "5", "--cooling", "0.9", "--chains", "1", out="narrow")
    assert "a narrower range" not in capsys.readouterr().out  # D* spreads over less than a tenth of these temperatures


def test_a_run_of_replicas_is_the_same_among_others_and_on_another_rank(go, script, tmp_path, monkeypatch):
    flags = ("--maximize", "--exchange", "2", "--temperature", "0.05", "--cooling", "0.3", "--chains", "3")
    many = load_state(go(*flags, out="three") / "state-max-0of1.pt")
    ranked = dataclasses.replace(script.start("cpu"), rank=1, size=2)

    def enough(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(script, "start", lambda _: ranked)
    monkeypatch.setattr(type(ranked), "is_main", True)
    monkeypatch.setattr(type(ranked), "barrier", lambda _: None)
    monkeypatch.setattr(type(ranked), "share", lambda _, value: value)
    monkeypatch.setattr(script.timing, "tell", enough)
    with pytest.raises(KeyboardInterrupt):
        go(*flags, out="one")
    one = load_state(tmp_path / "one" / "state-max-1of2.pt")
    assert one.ids.tolist() == [4, 6]
    for name, value in vars(one).items():
        assert torch.equal(value, getattr(many, name)[2:4]), name


def test_a_stopped_run_of_replicas_goes_on_to_the_same_files(go, script, monkeypatch):
    flags = ("--maximize", "--exchange", "2", "--temperature", "0.05", "--cooling", "0.3")
    done = contents(go(*flags, out="whole"))
    real, calls = script.save_state, []

    def stopping(*args, **kwargs):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(args)
        real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(script, "save_state", stopping)
        with pytest.raises(KeyboardInterrupt):
            go(*flags, out="halves")
    assert contents(go(*flags, out="halves")) == done


def test_an_ascent_starts_chains_higher(go):
    first = {}
    for start in ("random", "ascent"):
        out = go("--score", "exact", "--checkpoint", "", "--start", start, "--steps", "1", "--cycles", "1", out=start)
        traces = read(out, "traces.json")
        first[start] = [traces[d]["trace"][k][0] for d in ("max", "min") for k in range(2)]
        assert (out / "start-max-0of1.pt").exists() == (start == "ascent")
    assert all(first["ascent"][k] > first["random"][k] + 0.05 for k in (0, 1))
    assert all(first["ascent"][k] < first["random"][k] for k in (2, 3))


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--objective", "target"], "a target is for objective 'target', and needed there"),
        (["--target", "0.5"], "a target is for objective 'target'"),
        (["--objective", "target", "--target", "99"], "target must be a D\\* between 0 and"),
        (["--objective", "target", "--target", "-1"], "target must be a D\\* between 0 and"),
        (["--objective", "x", "--minimize"], "--minimize does not go with objective 'x'"),
        (["--objective", "x"], "predicts their mean; train one with --model network"),
        (["--caution", "1"], "this one does not"),
        (["--caution", "-1"], "caution must be 0 or more"),
        (["--caution", "1", "--score", "exact"], "the exact solver is sure"),
        (["--exchange", "0"], "exchange must be at least 1"),
        (["--exchange", "2", "--exchange-every", "0"], "exchange_every must be at least 1"),
        (["--exchange", "2", "--cycles", "1"], "cycles above 1"),
        (["--exchange", "2", "--cooling", "1"], "cooling below 1"),
        (["--exchange", "4", "--start", "data"], "chains = 8 exceeds the 6 structures"),
        (["--temperature", "-1"], "temperature must be positive"),
        (["--temperature", "nan"], "temperature must be positive"),
        (["--chains", "1000000000"], r"chains = 1000000000 keep .* GiB .*; \d+ would fit"),
    ],
)
def test_what_cannot_be_is_refused_before_the_folder_is_made(go, tmp_path, flags, says):
    with pytest.raises(ConfigError if "temperature" not in says else ValueError, match=says):
        go(*flags)
    assert not (tmp_path / "out").exists()


def test_without_a_checkpoint_the_network_that_comes_with_gpuion_leads_the_way(script, tmp_path, monkeypatch):
    """91 spheres of the study: led along x by the network's own gradient, then by what it is sure of."""
    flags = {"--data": whole.ROOT / "data" / "study", "--out": tmp_path, "--objective": "x", "--start": "ascent"}
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


def test_each_option_can_be_given_under_torchrun(script, capsys):
    """torchrun reads what begins like an option of its own, so `--start` has another name."""
    parser = torch.distributed.run.get_args_parser()
    for field in dataclasses.fields(script.Config):
        taken = []
        for name in (field.name, *field.metadata.get("aliases", ())):
            words = ["anneal.py", *field.metadata.get("flags", {f"--{name.replace('_', '-')}": None}), "1"]
            with contextlib.suppress(SystemExit):
                taken.append(parser.parse_args(words).training_script_args == words[1:])
        assert any(taken), field.name
    assert "ambiguous" in capsys.readouterr().err


def test_an_unknown_objective_is_refused_on_the_command_line_and_in_a_file(go, tmp_path, capsys):
    with pytest.raises(SystemExit):
        go("--objective", "best")
    assert "invalid choice: 'best'" in capsys.readouterr().err
    (tmp_path / "preset.toml").write_text('[anneal]\nobjective = "best"\n')
    with pytest.raises(ConfigError, match="should be one of mean, target, x, y, z, even, found 'best'"):
        go("--config", str(tmp_path / "preset.toml"))


def test_memory_is_what_the_structures_take(monkeypatch):
    """Of 91 spheres a structure takes 1100 bytes; 50 cycles of 25 up, 100 down, twice the larger again, and 50."""
    host = torch.device("cpu")
    need = (1250 + 2500 + 2 * 2500 + 50) * 1100
    monkeypatch.setattr(capacity, "available", lambda _: 20 * need + 5)
    check_memory(20, 91, {"max": 1250, "min": 2500}, 1, host)
    with pytest.raises(ConfigError, match=r"chains = 21 keep 0\.189 GiB .*; 20 would fit"):
        check_memory(21, 91, {"max": 1250, "min": 2500}, 1, host)
    # What a score knows of a chain counts where the chain is: of two ranks, each has half of the chains.
    monkeypatch.setattr(capacity, "available", lambda _: 20 * (need + 1000) + 5)
    check_memory(20, 91, {"max": 1250, "min": 2500}, 2, host, 2000)
    with pytest.raises(ConfigError, match="19 would fit"):
        check_memory(20, 91, {"max": 1250, "min": 2500}, 2, host, 2002)


def test_memory_free_is_the_machines_share(monkeypatch):
    alone = available(torch.device("cpu"))
    assert 2**28 < alone < 2**50
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1000")
    assert available(torch.device("cpu")) < alone / 500  # other programs may take or leave some meanwhile


def test_the_paper_preset_is_the_papers_rule(script, monkeypatch):
    """Kadulkar et al. 2021: moves by one voxel, T_1 = 9.8e-3, times 0.9 a cycle, 50 and 100 cycles of 2500 steps."""
    with (whole.ROOT / "configs" / "paper.toml").open("rb") as file:
        written = tomllib.load(file)["anneal"]
    config = script.Config(**read_preset(whole.ROOT, "paper", "anneal", script.Config))
    rule = {"chains": 10, "steps": 2500, "temperature": 9.8e-3, "cooling": 0.9, "start": "random"}
    rule |= {"relabel": 5000, "relabel_min": 2280}
    assert {name: getattr(config, name) for name in rule} == rule
    assert {name: written[name] for name in rule} == rule
    assert {d: config.cycles_of(d) for d in config.goals} == {"max": 50, "min": 100}
    ours = {
        "objective": "mean",
        "target": None,
        "caution": 0.0,
        "exchange": 1,
        "score": "surrogate",
        "direction": "both",
    }
    assert {name: getattr(config, name) for name in ours} == ours
    goals = config.goals
    assert goals == {"max": Objective(), "min": Objective(maximize=False)}
    # And these numbers reach the chains: a small cell, the paper's settings, ten steps.
    seen = []
    monkeypatch.setattr(gpuion.annealing, "_step", lambda rules, now, move: seen.append((rules, now, move)) or now)
    x = torch.tensor([[[0.5, 0.5, 0.5], [5.5, 5.5, 5.5]]])
    gpuion.anneal(lambda c: c[:, 0, 0] * 0, x, box=10.0, diameter=4.0, cycles=3, steps=4, samples=0)
    heat = [float(now.heat[0]) for _, now, _ in seen]
    assert heat == pytest.approx([9.8e-3] * 4 + [9.8e-3 * 0.9] * 4 + [9.8e-3 * 0.81] * 4, rel=1e-15)
    shifts = torch.stack([move[1][0, 0] for _, _, move in seen])
    assert torch.equal(shifts.abs().sum(1), torch.ones(12, dtype=torch.int64))
