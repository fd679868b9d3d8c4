"""Settings of anneal.py: what does not fit is refused at once, and the paper's preset is its rule."""

import contextlib
import dataclasses
import os
import subprocess
import sys
import tomllib

import anneal_runs as runs
import pytest
import torch
import torch.distributed.run
from anneal_runs import ROOT

import gpuion
from gpuion import capacity, steps
from gpuion.capacity import available, check_memory
from gpuion.config import read_preset
from gpuion.dataset import write_shard
from gpuion.errors import CheckpointError, ConfigError, DatasetError
from gpuion.objectives import Objective

script, data, go = runs.script, runs.data, runs.go


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--steps", "0"], "steps"),
        (["--cycles", "0"], "cycles"),
        (["--temperature", "0"], "temperature"),
        (["--cooling", "1.1"], "cooling"),
        (["--chains", "0"], "chains"),
        (["--relabel", "-1"], "relabel"),
        (["--batch", "0"], "batch"),
        (["--tolerance", "0"], "tolerance"),
        (["--start", "data", "--chains", "7"], "exceeds"),
        (["--data", "/nowhere"], "/nowhere"),
    ],
)
def test_bad_settings_end_before_the_folder_is_made(go, tmp_path, flags, says):
    with pytest.raises(ValueError, match=says):
        go(*flags)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("flags", [(), ("--exchange", "2"), ("--dry-run",)])
def test_overlaps_in_the_data_are_refused_before_the_folder_is_made(go, data, tmp_path, flags):
    """Only where a chain would start: of six structures, the lowest, number 40 of the data, has an overlap."""
    like, folder = gpuion.open_dataset(data), tmp_path / "clumped"
    low = int(like.d_star.argmin())
    centers, ids = like.centers.clone(), like.id.clone()
    centers[low, 1] = centers[low, 2] + 1.5
    ids[low] = 40
    folder.mkdir()
    write_shard(folder / "shard-00000.h5", dataclasses.replace(like, centers=centers.remainder(10), id=ids), seed=3)
    given = ("--data", str(folder), "--start", "data", "--chains", "1", *flags)
    with pytest.raises(
        DatasetError, match=r"overlap in structure 40 of the data \(family random, sphere \d\).*--start"
    ):
        go(*given)
    assert not (tmp_path / "out").exists()
    go(*given, "--maximize", "--cycles", "2", "--steps", "4", "--relabel", "0")


@pytest.mark.parametrize("name", ["box", "diameter", "n_particles", "d_reference"])
def test_a_checkpoint_of_other_structures_needs_force(go, tmp_path, name):
    go.net.meta[name] = go.net.meta[name] * 2
    if name == "box":
        go.net.meta["voxels"] *= 2
    with pytest.raises(CheckpointError, match=rf"{name} = .*--force"):
        go()
    assert not (tmp_path / "out").exists()
    go("--force", "--maximize", "--cycles", "1")


def test_another_configuration_or_number_of_processes_is_refused(go):
    out = go()
    with pytest.raises(ConfigError, match="holds a run with steps = 40"):
        go("--steps", "41")
    state = next(out.glob("state-*.pt"))
    state.rename(out / "state-max-0of2.pt")
    with pytest.raises(ConfigError, match="another number of processes"):
        go()


def test_the_script_says_in_one_line_what_is_missing():
    command = [sys.executable, str(ROOT / "anneal.py"), "--checkpoint", "net.pt"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ})
    assert done.returncode == 2
    assert done.stderr.strip().splitlines() == ["error: give --data FOLDER (of simulate.py)"]


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
    with (ROOT / "configs" / "paper.toml").open("rb") as file:
        written = tomllib.load(file)["anneal"]
    config = script.Config(**read_preset(ROOT, "paper", "anneal", script.Config))
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
    monkeypatch.setattr(steps, "propose", lambda rules, now, *move: seen.append((rules, now, move)) or now)
    x = torch.tensor([[[0.5, 0.5, 0.5], [5.5, 5.5, 5.5]]])
    gpuion.anneal(lambda c: c[:, 0, 0] * 0, x, box=10.0, diameter=4.0, cycles=3, steps=4, samples=0)
    heat = [float(now.heat[0]) for _, now, _ in seen]
    assert heat == pytest.approx([9.8e-3] * 4 + [9.8e-3 * 0.9] * 4 + [9.8e-3 * 0.81] * 4, rel=1e-15)
    shifts = torch.stack([move[1][0, 0] for _, _, move in seen])
    assert torch.equal(shifts.abs().sum(1), torch.ones(12, dtype=torch.int64))
