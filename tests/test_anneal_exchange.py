"""anneal.py with chains that exchange temperatures: how often, the same on any rank and after a stop."""

import dataclasses

import anneal_runs as runs
import pytest
import torch
from anneal_runs import contents, read

import gpuion
from gpuion.chains import load_state

script, data, go = runs.script, runs.data, runs.go


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
    monkeypatch.setattr(type(ranked), "total", lambda _, number: number)
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
