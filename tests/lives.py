"""Lives of the scripts, from their start to their end or to a signal, and small jobs for them.

A life is forked from a process that has loaded torch, which takes longer than all of the work, or started as a user
does, so that signals meet it while it still loads, too.
"""

import contextlib
import importlib
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_simulate import ROOT, TINY

from gpuion import errors

STOPPED = "stopped; what was finished is kept, and the same command goes on from there\n"
ENV = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}  # weights depend on the number of threads
EPOCHS, CYCLES, CHAINS, STEPS, RELABEL = 24, 4, 3, 30, 3
PATIENCE = 240  # seconds for what takes a few
SERVER = multiprocessing.get_context("forkserver")


def commands(home):
    """Return for each job the script and its flags but the folder; each needs what those before it made."""
    data, net = home / "simulate", home / "train" / "surrogate.pt"
    anneal = [
        "anneal.py", "--data", data, "--checkpoint", net, "--chains", CHAINS, "--cycles", CYCLES, "--steps", STEPS,
        "--samples", 3, "--relabel", RELABEL, "--tolerance", "0.01",
    ]  # fmt: skip
    jobs = {
        "simulate": ["simulate.py", "--config", home / "tiny.toml", "--method", "both", "--batch", 1],
        "train": [
            "train.py",
            "--model",
            "periodic",
            "--data",
            data,
            "--widths",
            4,
            4,
            "--hidden",
            4,
            "--batch",
            4,
            "--epochs",
            EPOCHS,
        ],
        "anneal": anneal,
        "rounds": [*anneal, "--rounds", 2, "--epochs", 2],
    }
    return {name: [*map(str, words), "--device", "cpu", "--out"] for name, words in jobs.items()}


def _be(words, log, env, limit):
    """Be a script, in a forked process; the system kills it as a file outgrows the limit."""
    errors.expect_stops()
    os.environ.update(env)
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    multiprocessing.set_start_method("fork", force=True)  # as at a script's start; tqdm asks
    if limit is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.argv = words
    errors.run_script(importlib.import_module(Path(words[0]).stem).main)


class Forked:
    """A life in a forked process."""

    def __init__(self, words, log, env=None, limit=None):
        self.log = log
        self.process = SERVER.Process(target=_be, args=(words, log, env or {}, limit))
        self.process.start()
        self.pid = self.process.pid

    def wait(self, seconds=PATIENCE):
        """Return the exit code, None if it does not end in that time."""
        self.process.join(seconds)
        return self.process.exitcode


class Started:
    """A life as a user starts it, a session of its own."""

    def __init__(self, words, log, ranks=1):
        self.log = log
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
        with log.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, *torchrun, str(ROOT / words[0]), *words[1:]], stdout=subprocess.DEVNULL, stderr=err,
                env={**os.environ, **ENV, "PYTHONPATH": str(ROOT)}, start_new_session=True,
            )  # fmt: skip
        self.pid = self.process.pid

    def wait(self, seconds=PATIENCE):
        """Return the exit code, None if it does not end in that time."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None


def until(condition, life):
    """Wait for something that a life does; the test fails if it ends before."""
    limit = time.monotonic() + PATIENCE
    while not condition():
        assert life.wait(0.01) is None, life.log.read_text()
        assert time.monotonic() < limit


def expects_stops(life):
    """Return whether a life handles SIGTERM, which a script does from its first lines on."""
    caught = [x for x in Path(f"/proc/{life.pid}/status").read_text().splitlines() if x.startswith("SigCgt:")]
    return not caught or bool(int(caught[0].split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def said(life):
    """Return what a life said on stderr but about walks, which are too short to settle here."""
    return [line for line in life.log.read_text().splitlines(keepends=True) if "walks did not converge" not in line]


def finish(life):
    """Let a life come to its end."""
    assert life.wait() == 0, said(life)
    assert said(life) == []


def contents(folder):
    """Return all files of a run but those that tell its times, by their bytes."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found if path.name != "timing.json"}


def progress(folder):
    """Return what tells whether a run has finished something since: its files and when they were written."""
    found = {}
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if path.name not in {"run.json", ".lock"} and path.suffix != ".partial" and path.is_file():
                found[path] = path.stat().st_mtime_ns
    return found


def prepare(home, kind, names, **given):
    """Run each job undisturbed; return its files, and the seconds from its start and from its first progress on."""
    (home / "tiny.toml").write_text(TINY)
    whole, span = {}, {}
    for name in names:
        began = time.monotonic()
        life = kind([*commands(home)[name], str(home / name)], home / "stderr", **given)
        until(lambda name=name: progress(home / name), life)
        first = time.monotonic()
        assert life.wait() == 0
        whole[name], span[name] = contents(home / name), (time.monotonic() - began, time.monotonic() - first)
        assert not [path for path in whole[name] if Path(path).name.startswith(".")]
    return whole, span


@pytest.fixture(scope="module")
def forking(tmp_path_factory):
    """The folder, files and times of jobs in forked processes."""
    home = tmp_path_factory.mktemp("forking")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        for item in ENV.items():
            patch.setenv(*item)
        SERVER.set_forkserver_preload(["simulate", "train", "anneal", "lives"])
        server = SERVER.Process(target=int)  # its start is no part of a life
        server.start()
        server.join()
        yield home, *prepare(home, Forked, ("simulate", "train", "anneal"))
        for life in multiprocessing.active_children():  # of a test that failed
            life.kill()
