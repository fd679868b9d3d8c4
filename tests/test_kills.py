"""Scripts that are killed at random moments, that meet another run in their folder, or that lose a rank.

After each life, no more than the batch, epoch or cycle in flight is lost; a run that came to its end has the files of
one that nothing disturbed, byte for byte, and no others.
"""

import json
import os
import random
import shutil
import signal
import socket
import time
from pathlib import Path

import pytest
from lives import (
    CHAINS,
    CYCLES,
    EPOCHS,
    RELABEL,
    STEPS,
    STOPPED,
    Forked,
    Started,
    commands,
    contents,
    expects_stops,
    finish,
    prepare,
    progress,
    said,
    until,
)
from lives import forking as forking  # noqa: PLC0414, a fixture

from gpuion import files, locks, shards
from gpuion.errors import LOST

REFUSED = "error: another run is writing to {}; wait until it has ended, stop it, or choose another --out\n"
SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]


def live(kind, words, number, seconds, *, working):
    """Live until a signal that many seconds after the start, or after the first progress; return whether it ended."""
    folder = Path(words[-1])
    life, before = kind(words, folder.parent / "stderr"), progress(folder)
    if number in {signal.SIGTERM, signal.SIGINT}:
        until(lambda: expects_stops(life), life)
    while working and progress(folder) == before and life.wait(0.01) is None:
        pass
    code = life.wait(seconds)
    if code is None:
        assert number is not None, said(life)
        os.kill(life.pid, number)
        code = life.wait(60)
    if code == 0 or (number != signal.SIGKILL and code == -number):  # the signal came after all was done
        assert said(life) == []
        return True
    assert number is not None, said(life)
    assert code == (-number if number == signal.SIGKILL else 128 + number), (code, said(life))
    assert said(life) == ([] if number == signal.SIGKILL else [STOPPED])
    return False


def labelled(folder):
    """Return which structures of a folder have labels, in shards or batches."""
    found = set()
    for path in folder.glob("shard-*.h5"):
        found |= set(shards.read(path)[0]["id"].tolist())
    for path in folder.glob(".shard-*.batch"):
        found |= set(files.load_tensors(path)["id"].tolist())
    return len(found)


def done(name, folder):
    """Return what a run has finished, by stage."""
    if name == "rounds":
        parts = {path.name: "anneal" if "round" in path.name else "train" for path in folder.glob("*-?")}
        return {f"{at} {stage}": n for at, kind in parts.items() for stage, n in done(kind, folder / at).items()}
    if name == "train":
        last = folder / "last.pt"
        return {"train": 10 * len(files.load_tensors(last)["progress"]["history"]) if last.exists() else 0}
    counts = {"simulate" if name == "simulate" else "label": labelled(folder)}
    for d in ("max", "min") if name == "anneal" else ():
        state = folder / f"state-{d}-0of1.pt"
        counts[d] = STEPS * files.load_tensors(state)["trace"].numel() if state.exists() else 0
    return counts


def all_of(name):
    """Return what there is to do, by stage: 16 structures, of which 10 train."""
    moves = CHAINS * CYCLES * STEPS
    stages = {"max": moves, "min": moves, "label": 2 * (CHAINS + RELABEL)}
    return {"simulate": {"simulate": 16}, "train": {"train": 10 * EPOCHS}, "anneal": stages}[name]


def timing(folder):
    path = folder / "timing.json"
    return json.loads(path.read_text()) if path.exists() else []


def torment(kind, home, whole, name, kills, *spans):
    """Send a job that many signals, and go on until it ends; return how often it did, each time to begin anew.

    Moments lie within a span from the first progress on; of two spans, the first is from the start on, and they take
    turns.
    """
    draw, ends, sent, fresh, scale = random.Random(0), 0, 0, True, 1.0  # noqa: S311
    while sent < kills or not fresh:
        folder = home / (name if name == "rounds" else f"{name}-{ends}")  # what rounds make names their folder
        if fresh:
            shutil.rmtree(folder, ignore_errors=True)
        before, rows, words = done(name, folder), len(timing(folder)), [*commands(home)[name], str(folder)]
        if sent < kills:
            working = len(spans) == 1 or sent % 2 == 1
            moment = scale * draw.uniform(0, spans[-1 if working else 0])
            fresh = live(kind, words, SIGNALS[sent % 3], moment, working=working)
            scale *= 0.6 if fresh else 1.1  # the first life may have compiled, and a machine have other work now
        else:
            fresh = live(kind, words, None, 240, working=False)
        if fresh:
            found, ends = contents(folder), ends + 1
            assert sorted(found) == sorted(whole)
            assert [path for path in whole if found[path] != whole[path]] == []
            if name != "rounds":  # what was missing was made, and nothing else
                made = {row["stage"]: row["count"] for row in timing(folder)[rows:]}
                assert made == {stage: n - before[stage] for stage, n in all_of(name).items() if n > before[stage]}
        else:
            sent += 1
            after = done(name, folder)
            assert all(after[stage] >= n for stage, n in before.items()), (before, after)
    return ends


@pytest.mark.parametrize("name", ["simulate", "train", "anneal"])
def test_killed_at_random_moments_of_its_work(forking, name):
    home, whole, span = forking
    assert torment(Forked, home, whole[name], name, 3, 0.6 * span[name][1]) >= 1


@pytest.mark.parametrize("name", ["simulate", "train", "anneal"])
def test_killed_in_the_middle_of_writes(forking, name):
    """The system kills a process whose file outgrows a limit, and leaves what fits of it."""
    home, whole, _ = forking
    folder, log = home / f"{name}-cut", home / "stderr"
    words, sizes = [*commands(home)[name], str(folder)], [len(x) for x in whole[name].values()]
    for size in (min(sizes), max(sizes)):  # run.json, the first of all, does not fit the one; the largest is cut last
        life = Forked(words, log, limit=size - 1)
        assert life.wait() == -signal.SIGXFSZ, said(life)
        assert said(life) == []
        assert [path for path in folder.iterdir() if path.name.endswith(".partial")]
    finish(Forked(words, log))
    assert contents(folder) == whole[name]


@pytest.fixture(scope="module")
def starting(tmp_path_factory):
    home = tmp_path_factory.mktemp("starting")
    return home, *prepare(home, Started, ("simulate", "train", "anneal", "rounds"))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kills"), [("simulate", 51), ("train", 51), ("anneal", 51), ("rounds", 24)])
def test_killed_at_random_moments_of_its_life(starting, name, kills, capsys):
    home, whole, span = starting
    ends = torment(Started, home, whole[name], name, kills, *span[name])
    with capsys.disabled():
        print(f" {name}: {kills} kills within {span[name][0]:.1f} s of a life, {ends} runs to their end")


@pytest.mark.parametrize("name", ["simulate", "train", "anneal"])
def test_a_second_run_is_refused_while_the_first_lives(forking, name):
    home, whole, _ = forking
    folder, log = home / f"{name}-twice", home / "second"
    words = [*commands(home)[name], str(folder)]
    first = Forked(words, home / "first")
    until((folder / "run.json").exists, first)
    os.kill(first.pid, signal.SIGSTOP)  # at work, but so that it does not end meanwhile
    before = contents(folder)
    second = Forked(words, log)
    assert second.wait() == 2
    assert said(second) == [REFUSED.format(folder)]
    assert contents(folder) == before
    os.kill(first.pid, signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    assert (folder / locks.NAME).exists()  # nobody was left to remove it, and nobody holds it
    finish(Forked(words, log))
    assert contents(folder) == whole[name]


def ranks_of(folder):
    """Return the processes that write to a folder as ranks of torchrun, by rank, and torchrun itself as None."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder).encode() in (path / "cmdline").read_bytes().split(b"\0"):
                about = dict(x.partition("=")[::2] for x in (path / "environ").read_text().split("\0"))
                found[about.get("RANK")] = int(path.name)
        except OSError:
            continue  # of another user, or gone
    return found


def pair(home, words):
    """Return the lives of two ranks without torchrun, which would end the other one itself."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        env = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    return [Forked(words, home / f"rank-{k}", env | {"RANK": str(k), "LOCAL_RANK": str(k)}) for k in range(2)]


def test_a_rank_that_waits_for_a_lost_one_ends_and_the_run_goes_on(forking):
    home, _, _ = forking
    folder = home / "lost"
    words = [*commands(home)["train"], str(folder)]
    first, second = pair(home, words)
    until((folder / "last.pt").exists, first)
    os.kill(second.pid, signal.SIGKILL)
    assert first.wait(60) == 1
    assert said(first) == [f"error: {LOST} [rank 0]\n"]
    for life in pair(home, words):
        finish(life)
    assert done("train", folder) == all_of("train")


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_at_work_ends_when_another_is_lost(forking, victim):
    home, _, _ = forking
    folder = home / f"lost-{victim}"
    long = ["--walkers", "1000", "--time", "100000", "--batch", "1"]  # hours
    lives = pair(home, [*commands(home)["simulate"], str(folder), *long])
    until((folder / "run.json").exists, lives[0])
    time.sleep(1.0)  # at the first batch
    os.kill(lives[victim].pid, signal.SIGKILL)
    other = lives[1 - victim]
    assert other.wait(60) == 1
    assert said(other) == [f"error: {LOST} [rank {1 - victim}]\n"]
    with locks.held(folder, alone=True):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["0", "1"])
@pytest.mark.parametrize(("name", "mark"), [("simulate", "*.batch"), ("train", "last.pt"), ("anneal", "state-*.pt")])
def test_one_of_two_ranks_killed(pairs, name, mark, victim, capsys):
    home, whole = pairs
    folder = home / f"{name}-{victim}"
    words = [*commands(home)[name], str(folder)]
    life = Started(words, home / "stderr", ranks=2)
    until(lambda: list(folder.glob(mark)), life)
    os.kill(ranks_of(folder)[victim], signal.SIGKILL)
    began = time.monotonic()
    code = life.wait(60)
    with capsys.disabled():
        print(f" {name}: rank {victim} killed, all ended after {time.monotonic() - began:.1f} s with code {code}")
    assert code
    assert any("Signal 9 (SIGKILL)" in line for line in said(life))
    assert ranks_of(folder) == {}
    assert Started(words, home / "stderr", ranks=2).wait() == 0
    assert contents(folder) == whole[name]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    home = tmp_path_factory.mktemp("pairs")
    return home, prepare(home, Started, ("simulate", "train", "anneal"), ranks=2)[0]
