"""How programs end: one line and an exit code, at any moment, on one rank or several."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STOPPED = "stopped; what was finished is kept, and the same command goes on from there"

ERRORS = r"""
import os, sys, time
from gpuion.errors import *
def main():
    kind = sys.argv[1]
    if kind == "config": raise ConfigError("two\nlines")
    if kind == "value": raise ValueError("a value")
    if kind == "disk": raise OSError(28, "No space left on device")
    if kind == "quota": raise OSError(122, "Disk quota exceeded")
    if kind == "size": raise OSError(27, "File too large")
    if kind == "file": open("/nowhere/at/all")
    if kind == "memory": raise RuntimeError("CUDA out of memory. Tried")
    if kind == "ram": raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")
    if kind == "bug": raise RuntimeError("a bug")
    print("ready", flush=True)
    time.sleep(60)
run_script(main)
"""


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("config", "error: two lines"), ("value", "error: a value"), ("disk", "error: the disk is full;"),
        ("quota", "error: the disk quota is used up;"), ("size", "error: a file met the limit on its size;"),
        ("file", "error: [Errno 2] No such file"), ("memory", "error: CUDA out of memory"),
        ("ram", "error: DefaultCPUAllocator: can't allocate memory"),
    ],
)  # fmt: skip
def test_an_error_is_one_line_and_code_1_or_2_of_bad_use(kind, line):
    done = subprocess.run([sys.executable, "-c", ERRORS, kind], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == (2 if kind == "config" else 1)
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(line)


def test_a_bug_keeps_its_traceback():
    done = subprocess.run([sys.executable, "-c", ERRORS, "bug"], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals(number):
    with subprocess.Popen([sys.executable, "-c", ERRORS, "wait"], stdout=-1, stderr=-1, text=True, cwd=ROOT) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert err.splitlines() == [STOPPED]


TWICE = """
import signal, sys, time
from gpuion.errors import expect_stops, run_script
expect_stops()
def main():
    try:
        print("ready", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        print("tidying", flush=True)
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            time.sleep(60)
run_script(main)
"""


def test_a_second_signal_ends_it_at_once_and_is_not_told_twice():
    with subprocess.Popen([sys.executable, "-c", TWICE], stdout=-1, stderr=-1, text=True, cwd=ROOT) as process:
        for line, number in (("ready\n", signal.SIGINT), ("tidying\n", signal.SIGTERM)):
            assert process.stdout.readline() == line
            process.send_signal(number)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 143
    assert err.splitlines() == [STOPPED]


CALLBACK = """
import ctypes, time
from gpuion.errors import run_script
class Freed:
    def __del__(self): wait()
def wait():
    print("ready", flush=True)
    time.sleep(60)
def main():
    CASE
    time.sleep(60)
run_script(main)
"""


@pytest.mark.parametrize("case", ["ctypes.CFUNCTYPE(None)(wait)()", "Freed()"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_that_python_would_ignore_counts(case, number):
    """Loading a compiled kernel calls Python from LLVM, and what is raised there is printed and forgotten."""
    command = [sys.executable, "-c", CALLBACK.replace("CASE", case)]
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True, cwd=ROOT) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert err.splitlines() == [STOPPED]


SCRIPTS = [[str(ROOT / f"{name}.py")] for name in ("simulate", "train", "anneal")]
SCRIPTS += [["-m", "gpuion.dataset", "info", "x"], ["-m", "gpuion.report", "x"]]


@pytest.mark.parametrize(
    ("words", "module", "number"),
    [
        (SCRIPTS[0], "numpy.version", signal.SIGINT), (SCRIPTS[0], "torch.types", signal.SIGTERM),
        (SCRIPTS[0], "gpuion.config", signal.SIGINT), (SCRIPTS[1], "torch._utils", signal.SIGINT),
        (SCRIPTS[2], "torch._utils", signal.SIGINT), (SCRIPTS[3], "numpy.version", signal.SIGINT),
        (SCRIPTS[4], "numpy.version", signal.SIGINT),
    ],
)  # fmt: skip
def test_a_stop_while_modules_load_is_one_line(tmp_path, words, module, number):
    """Python says on stderr which module it has just loaded: the signal comes then, on machines of any speed."""
    command = [sys.executable, "-X", "importtime", *words]
    with subprocess.Popen(
        command, stderr=-1, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as p:
        for line in p.stderr:
            if line.split("|")[-1].strip() == module:
                p.send_signal(number)
                break
        rest = [line for line in p.stderr.read().splitlines() if not line.startswith("import time:")]
        p.wait(timeout=60)
    assert p.returncode == 128 + number
    assert rest == [STOPPED]


def test_little_is_loaded_before_a_stop_is_expected():
    """Until then a stop is a traceback: typing, pathlib and the like would take ten times as long as all of this."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); before = set(sys.modules); import gpuion.errors\n"
    code += "print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "gpuion.errors" in loaded
    assert not loaded & {"typing", "pathlib", "contextlib", "dataclasses", "re", "torch"}


def test_output_that_nobody_can_take_is_one_line():
    code = "from gpuion.errors import run_script\nrun_script(lambda: print('x' * 10))"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=-1, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: the disk is full; free some space and run the same command again to go on"
    ]


@pytest.mark.parametrize("kind", ["wait", "config"])
def test_a_reader_of_errors_that_is_gone_changes_no_exit_code(kind):
    """As in `simulate.py 2>&1 | tee log`, where Ctrl-C ends tee as well."""
    there, here = os.pipe()
    with subprocess.Popen([sys.executable, "-c", ERRORS, kind], stdout=-1, stderr=here, text=True, cwd=ROOT) as process:
        os.close(here)
        os.close(there)
        if kind == "wait":
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGINT)
    assert process.returncode == (130 if kind == "wait" else 2)


RANKS = """
import sys
from gpuion.config import Parser
from gpuion.distributed import start
from gpuion.errors import ConfigError, run_script
def main():
    kind = sys.argv[1]
    if kind == "flag": Parser(prog="x").parse_args()
    if kind == "same": raise ConfigError("all of us")
    world = start("cpu")
    if world.rank == 1: raise ConfigError("just me")
    world.barrier()
run_script(main)
"""


def torchrun(tmp_path, kind):
    (tmp_path / "x.py").write_text(RANKS)
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(tmp_path / "x.py"), kind]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=env, timeout=90, check=False)
    assert done.returncode != 0
    mine = [line for line in done.stderr.splitlines() if line.startswith(("error:", "stopped", "Traceback"))]
    # torchrun itself tells, with a traceback of its own, that a rank failed
    return [line for line in mine if line != "Traceback (most recent call last):"], done.stderr


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("same", "error: all of us [rank"),
        pytest.param("flag", "error: no use for flag", marks=pytest.mark.slow),
    ],
)
def test_what_all_ranks_meet_is_said_once(tmp_path, kind, line):
    lines, err = torchrun(tmp_path, kind)
    assert len([x for x in lines if x.startswith("error:")]) == 1, err
    assert lines[0].startswith(line)


def test_what_one_rank_meets_alone_is_said(tmp_path):
    lines, err = torchrun(tmp_path, "alone")
    assert "error: just me [rank 1]" in lines, err
    assert 'x.py", line' not in err  # no traceback of ours: the other one has lost its peer, or was stopped
