"""What a killed run keeps, parts of a run on machines of their own, and the verdict on walk and exact solve."""

import dataclasses
import importlib
import json
import os
import random
import signal
import subprocess
import sys

import pytest
import torch
from test_manage import call
from test_simulate import ROOT, TINY, command, contents, until

import gpuion
from gpuion import work
from gpuion.errors import ConfigError, DatasetError, run_script
from gpuion.labeling import Labels, deviation


class KilledError(Exception):
    pass


class Solver:
    """Labels made of ids, a list of what was asked for, and a death at some call."""

    def __init__(self, dies_at=None):
        self.asked, self.dies_at = [], dies_at

    def __call__(self, centers, ids):
        if len(self.asked) == self.dies_at:
            raise KilledError
        self.asked.append(ids.tolist())
        assert torch.equal(centers, structures(ids))
        D = ids[:, None].double() + torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
        return Labels(diffusivity=D, standard_error=D / 100, converged=ids % 3 == 0)


def structures(ids):
    return ids[:, None, None].float() + torch.arange(6).view(2, 3)


IDS = torch.tensor([7, 3, 11, 2, 5, 13, 0])


def attempt(path, solver, size=2, mark="a", ids=IDS):
    told = []
    labels = work.label_shard(
        path, structures(ids), ids, size, solver, lambda *counts: told.append(counts), mark=mark
    )  # fmt: skip
    return labels, [sum(column) for column in zip(*told, strict=True)]


def die(path, at, **how):
    with pytest.raises(KilledError):
        attempt(path, Solver(dies_at=at), **how)
    return sorted(path.parent.glob(".shard*.batch"))


@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_finished_batches_are_not_made_again(tmp_path, size):
    path = tmp_path / "shard-00000.h5"
    straight, _ = attempt(tmp_path / "other.h5", Solver())
    work.drop(tmp_path / "other.h5")
    assert len(die(path, at=2)) == 2
    again = Solver()
    labels, counts = attempt(path, again, size=size)
    assert [number for batch in again.asked for number in batch] == [5, 13, 0]
    assert counts == [3, 4]
    for name, x in vars(straight).items():
        assert x is getattr(labels, name) is None or torch.equal(x, getattr(labels, name)), name
    work.drop(path)
    assert list(tmp_path.iterdir()) == []


def test_killed_again_and_again_with_other_batches(tmp_path):
    path = tmp_path / "shard-00000.h5"
    die(path, at=1, size=3)  # 7 3 11
    die(path, at=1, size=1)  # 2
    assert len(die(path, at=1, size=2)) == 3  # 5 13
    last = Solver()
    labels, counts = attempt(path, last, size=2)
    assert last.asked == [[0]]
    assert counts == [1, 6]
    assert torch.equal(labels.diffusivity[:, 0], IDS.double() + 0.1)


def test_killed_after_the_last_batch(tmp_path):
    path = tmp_path / "shard-00000.h5"
    whole, _ = attempt(path, Solver())
    again = Solver()
    labels, counts = attempt(path, again)
    assert again.asked == []
    assert counts == [0, 7]
    assert torch.equal(labels.diffusivity, whole.diffusivity)


def test_damaged_batches_and_those_of_others_are_made_again(tmp_path, capsys):
    path = tmp_path / "shard-00000.h5"
    first, second = die(path, at=2)
    whole = first.read_bytes()
    at = len(whole) // 2
    for damage in (whole[:-30], b"", whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):
        first.write_bytes(damage)
        again = Solver()
        labels, _ = attempt(path, again)
        assert torch.equal(labels.diffusivity[:, 0], IDS.double() + 0.1)  # though the first batch came last
        found = capsys.readouterr().err
        assert again.asked[0] == [7, 3]
        assert f"warning: a damaged batch is made again: {first}" in found
        [batch.unlink() for batch in tmp_path.glob(".*.batch") if batch not in {first, second}]
    first.write_bytes(whole)
    torch.save({"at": torch.tensor([99])}, tmp_path / ".shard-00000.h5.00004.batch")
    again = Solver()
    attempt(path, again)
    assert again.asked == [[5, 13], [0]]
    assert "a damaged batch is made again" in capsys.readouterr().err
    for other in ({"mark": "b"}, {"ids": IDS.flip(0)}):
        again = Solver()
        attempt(path, again, **other)
        assert sum(map(len, again.asked)) == 7
        assert sorted(n for batch in again.asked for n in batch) == sorted(IDS.tolist())


def test_a_shard_of_one_batch_leaves_nothing_behind(tmp_path):
    attempt(tmp_path / "shard-00000.h5", Solver(), size=7)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def home(tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY)
    return tmp_path


FLAGS = ["--method", "both", "--shard", "16", "--batch", "1", "--walkers", "400", "--time", "400", "--device", "cpu"]


def test_killed_at_random_moments_only_the_batch_in_flight_is_lost(home, simulate):
    random.seed(0)
    folder, kept = home / "killed", 0
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    for _ in range(2):
        goal = kept + random.randint(1, 4)  # noqa: S311, of 16
        with subprocess.Popen([*command(folder), *FLAGS], **pipes) as process:
            until(process, lambda goal=goal: len(list(folder.glob(".*.batch"))) >= goal)
            os.kill(process.pid, signal.SIGKILL)
            process.communicate(timeout=30)
        assert process.returncode == -signal.SIGKILL
        kept = len(list(folder.glob(".*.batch")))
        assert not list(folder.glob("shard-*"))
    for out in ("killed", "straight"):
        simulate[1](out, *FLAGS, "--batch", "3")
    assert json.loads((folder / "timing.json").read_text())[-1]["count"] == 16 - kept
    assert contents(folder) == contents(home / "straight")
    assert sorted(contents(folder)) == ["dataset.json", "run.json", "shard-00000.h5"]


@pytest.fixture
def simulate(home, monkeypatch):
    """Run simulate.py's main function in this process; return its module and a function that does."""
    monkeypatch.syspath_prepend(ROOT)
    script = importlib.import_module("simulate")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def start(out, *flags):
        monkeypatch.setattr(sys, "argv", [str(word) for word in [*command(home / out)[1:], "--device", "cpu", *flags]])
        run_script(script.main)
        return home / out

    yield script, start
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_parts_of_a_run_merge_into_the_files_of_one(simulate, home):
    _, start = simulate
    flags = ["--method", "exact"]
    one = start("one", *flags)
    parts = [start(f"part-{k}", *flags, "--part", f"{k}/3") for k in (1, 2, 3)]
    assert [path.name for path in sorted(parts[1].glob("shard-*"))] == ["shard-00001.h5", "shard-00004.h5"]
    whole = contents(one)
    assert whole.pop("run.json")
    assert len(whole) == 7
    for k in range(3):  # whichever part holds the largest D
        call("merge", *parts[k:], *parts[:k], "--out", home / f"merged-{k}")
        merged = contents(home / f"merged-{k}")
        assert merged.pop("run.json")
        assert merged == whole
    with pytest.raises(DatasetError, match="expected each of the 3 parts of a run once, found 1/3, 3/3"):
        call("merge", parts[0], parts[2], "--out", home / "some")
    assert not (home / "some").exists()
    with pytest.raises(DatasetError, match="each of the 3 parts of a run once, found 1/3, 1/3, 2/3"):
        call("merge", parts[0], parts[0], parts[1], "--out", home / "some")
    with pytest.raises(SystemExit):
        start("part-1", *flags, "--part", "2/3")  # a part's folder is that part's


def test_batches_go_once_their_shard_is_whole(simulate, home, monkeypatch):
    script, start = simulate
    label, seen = script.label, []

    def look(*args, **kwargs):
        seen.append({path.name.split(".")[1] for path in (home / "out").glob(".*.batch")})
        return label(*args, **kwargs)

    monkeypatch.setattr(script, "label", look)
    flags = ["--method", "exact", "--structures", "6", "--batch", "1"]
    start("out", *flags)
    first, second = {"shard-00000"}, {"shard-00001"}
    assert seen == [set(), first, first, set(), second, second]
    (home / "out" / ".shard-00001.h5.00000.batch").write_bytes(b"killed right after it was whole")
    start("out", *flags)
    assert len(seen) == 6
    assert not list((home / "out").glob(".*"))


@pytest.mark.parametrize("part", ["2", "0/3", "4/3", "a/b", "1/3/5", "-1/3", " 1/3", "/"])
def test_a_part_is_one_of_some(part):
    with pytest.raises(ConfigError, match=r"part must be k/m with 1 ≤ k ≤ m, as in 2/8, got"):
        work.share(range(9), part)
    assert sorted(n for k in (1, 2, 3) for n in work.share(range(8), f"{k}/3")) == list(range(8))


def test_a_walk_and_a_solve_too_far_apart_end_the_run_with_code_3(simulate, home, monkeypatch, capsys):
    script, start = simulate
    label, flags = script.label, ["--structures", "3", "--method", "both", "--batch", "3"]

    def wrong(*args, **kwargs):
        found = label(*args, **kwargs)
        settled = torch.tensor([True, True, False])
        off = found.diffusivity + torch.tensor([[3.9], [4.1], [9.0]]) * torch.tensor([0.0, 1.0, 0.0])
        found = dataclasses.replace(
            found, standard_error=torch.zeros_like(off), diffusivity_kmc=off,
            standard_error_kmc=torch.ones_like(off), converged_kmc=settled, converged=settled | ~settled,
        )  # fmt: skip
        return dataclasses.replace(found, z_score=deviation(found))

    monkeypatch.setattr(script, "label", wrong)
    with pytest.raises(SystemExit) as left:
        start("out", *flags)
    assert left.value.code == 3
    out, err = capsys.readouterr()
    assert "1 of 2 settled structures have walk and exact solve more than 4σ apart (chance: 0.00038)" in out
    data = gpuion.open_dataset(home / "out")
    assert data.z_score[:2, 1].tolist() == pytest.approx([3.9, 4.1])
    assert err.splitlines()[-1].startswith(
        f"error: 1 of 2 settled structures have walk and exact solve more than 4σ apart, of ids [{int(data.id[1])}] …"
    )
