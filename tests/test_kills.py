"""The scripts under SIGKILL, SIGTERM and SIGINT at random moments: what they had finished stays, and the end is the same.

A life of a script ends by itself or by a signal. After each, no more than the batch, epoch or cycle in flight is lost;
a run that came to its end has the files of one that nothing disturbed, byte for byte, and no others.

Processes of the plain tests are forked from one that has loaded torch, which takes longer than all of their work; the
slow tests start each script as a user does, and signals meet it while it still loads, too.
"""

import importlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_simulate import ROOT, TINY

from gpuion import errors, files, shards

STOPPED = "stopped; what was finished is kept, and the same command goes on from there\n"
SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
ENV = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}  # weights depend on the number of threads
STRUCTURES, EPOCHS, CYCLES, CHAINS, STEPS = 16, 12, 4, 3, 30
TRAINED = 10  # structures, of 16


def commands(home):
    """Return for each job the script and its flags without --out; one needs what those before it made."""
    data, net = home / "simulate", home / "train" / "surrogate.pt"
    anneal = [
        "anneal.py", "--data", data, "--checkpoint", net, "--chains", CHAINS, "--cycles", CYCLES, "--steps", STEPS,
        "--samples", 3, "--relabel", 3, "--tolerance", "0.01",
    ]  # fmt: skip
    jobs = {
        "simulate": ["simulate.py", "--config", home / "tiny.toml", "--method", "both", "--batch", 1],
        "train": ["train.py", "--data", data, "--widths", 4, 4, "--hidden", 4, "--batch", 4, "--epochs", EPOCHS],
        "anneal": anneal,
        "rounds": [*anneal, "--rounds", 2, "--epochs", 2],
    }
    return {name: [*map(str, words), "--device", "cpu", "--out"] for name, words in jobs.items()}


def forked(words, log):
    """Be a script, in a process that has loaded everything."""
    errors.expect_stops()
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    multiprocessing.set_start_method("fork", force=True)  # as at a script's start; tqdm asks
    sys.argv = words
    errors.run_script(importlib.import_module(Path(words[0]).stem).main)


class Forked:
    """A life of a script in a forked process."""

    def __init__(self, words, log):
        self.log = log
        self.process = SERVER.Process(target=forked, args=(words, log))
        self.process.start()
        self.pid = self.process.pid

    def wait(self, seconds):
        self.process.join(seconds)
        return self.process.exitcode


class Started:
    """A life of a script as a user starts it."""

    def __init__(self, words, log):
        self.log = log
        with log.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / words[0]), *words[1:]], stdout=subprocess.DEVNULL, stderr=err,
                env={**os.environ, **ENV, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
        self.pid = self.process.pid

    def wait(self, seconds):
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None


SERVER = multiprocessing.get_context("forkserver")


def expects_stops(pid):
    """Return whether a process handles SIGTERM, which it does from the first lines of a script on."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True  # it has ended
    caught = [line for line in status.splitlines() if line.startswith("SigCgt:")]
    return not caught or bool(int(caught[0].split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def live(kind, words, log, number=None, moment=0.0):
    """Live until a signal at a moment, or to the end; return whether the script came to its end."""
    life, limit = kind(words, log), time.monotonic() + 240
    if number not in {None, signal.SIGKILL}:
        while not expects_stops(life.pid):
            assert time.monotonic() < limit
            time.sleep(0.001)
    code = life.wait(240 if number is None else moment)
    if code is None:
        assert number is not None, "a script that nothing disturbed did not end"
        os.kill(life.pid, number)
        code = life.wait(60)
    err = [line for line in log.read_text().splitlines(keepends=True) if "walks did not converge" not in line]
    if code == 0:
        assert err == [] or err == [STOPPED], err
        return True
    assert number is not None, err
    assert code == (-number if number == signal.SIGKILL else 128 + number), (code, number, err)
    assert err == ([] if number == signal.SIGKILL else [STOPPED]), err
    return False


def contents(folder):
    """Return all files of a run but what tells its times, by their bytes."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found if path.name != "timing.json"}


def labelled(folder):
    """Return which structures of a folder have labels, in shards or batches."""
    found = set()
    for path in folder.glob("shard-*.h5"):
        found |= set(shards.read(path)[0]["id"].tolist())
    for path in folder.glob(".shard-*.batch"):
        found |= set(files.load_tensors(path)["id"].tolist())
    return found


def done(name, folder):
    """Return what a run has finished, by stage."""
    if not folder.exists():
        return {}
    if name == "rounds":
        parts = {part.name: done("anneal" if "round" in part.name else "train", part) for part in folder.glob("*-?")}
        return {f"{at} {stage}": count for at, part in parts.items() for stage, count in part.items()}
    if name == "train":
        last = folder / "last.pt"
        epochs = len(files.load_tensors(last)["progress"]["history"]) if last.exists() else 0
        return {"train": epochs * TRAINED}
    if name == "simulate":
        return {"simulate": len(labelled(folder))}
    counts = {"label": len(labelled(folder))}
    for d in ("max", "min"):
        state = folder / f"state-{d}-0of1.pt"
        counts[d] = files.load_tensors(state)["trace"].numel() * STEPS if state.exists() else 0
    return counts


TOTAL = {"simulate": STRUCTURES, "train": EPOCHS * TRAINED, "max": CHAINS * CYCLES * STEPS}
TOTAL |= {"min": TOTAL["max"], "label": 2 * (CHAINS + 3)}


def check_end(name, folder, whole, before, rows):
    """Hold a finished run against the undisturbed one; its last life made what was missing and nothing else."""
    found = contents(folder)
    assert sorted(found) == sorted(whole)
    assert [file for file in whole if found[file] != whole[file]] == []
    if name != "rounds":
        after = json.loads((folder / "timing.json").read_text()) if (folder / "timing.json").exists() else []
        made = {row["stage"]: row["count"] for row in after[rows:]}
        assert made == {stage: n - before.get(stage, 0) for stage, n in total(name).items() if n > before.get(stage, 0)}


def total(name):
    return {stage: n for stage, n in TOTAL.items() if (stage == name or name == "anneal") and stage in STAGES[name]}


STAGES = {"simulate": {"simulate"}, "train": {"train"}, "anneal": {"max", "min", "label"}}


def torment(home, whole, kind, name, lives, span, seed):
    """Kill a job that many times; return how often it came to its end, each time to begin anew."""
    words, draw, ends, number = commands(home)[name], random.Random(seed), 0, 0
    killed = 0
    while killed < lives or number:
        folder = home / f"{name}-{ends}"
        before, timing = done(name, folder), folder / "timing.json"
        rows = len(json.loads(timing.read_text())) if timing.exists() else 0
        last = killed >= lives
        how = None if last else SIGNALS[killed % 3]
        if live(kind, [*words, str(folder)], home / "stderr", how, draw.uniform(0, span)):
            check_end(name, folder, whole[name], before, rows)
            ends, number = ends + 1, 0
            continue
        killed, number = killed + 1, number + 1
        after = done(name, folder)
        assert all(after[stage] >= count for stage, count in before.items()), (before, after)
    return ends


def prepare(home, kind, names):
    """Run each job undisturbed; return its files and how long it took."""
    (home / "tiny.toml").write_text(TINY)
    whole, span = {}, {}
    for name in names:
        began = time.monotonic()
        assert live(kind, [*commands(home)[name], str(home / name)], home / "stderr")
        whole[name], span[name] = contents(home / name), time.monotonic() - began
    return whole, span


@pytest.fixture(scope="module")
def forking(tmp_path_factory):
    home = tmp_path_factory.mktemp("forking")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        for item in ENV.items():
            patch.setenv(*item)
        SERVER.set_forkserver_preload(["simulate", "train", "anneal", "test_kills"])
        warm = SERVER.Process(target=int)  # its start is no part of a life
        warm.start()
        warm.join()
        yield home, *prepare(home, Forked, ("simulate", "train", "anneal"))


@pytest.mark.parametrize("name", ["simulate", "train", "anneal"])
def test_killed_at_random_moments_of_its_work(forking, name):
    home, whole, span = forking
    torment(home, whole, Forked, name, 3, 0.8 * span[name], seed=0)


@pytest.fixture(scope="module")
def starting(tmp_path_factory):
    home = tmp_path_factory.mktemp("starting")
    return home, *prepare(home, Started, ("simulate", "train", "anneal", "rounds"))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "lives"), [("simulate", 51), ("train", 51), ("anneal", 51), ("rounds", 24)])
def test_killed_at_random_moments_of_its_life(starting, name, lives):
    home, whole, span = starting
    ends = torment(home, whole, Started, name, lives, 1.1 * span[name], seed=1)
    print(f"{name}: {lives} kills, {ends} ends, {span[name]:.1f} s a life")
