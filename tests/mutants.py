"""Files spoilt by number: what is done to the n-th depends on its kind and n alone.

    python tests/mutants.py shard 17          # makes the 17th spoilt shard, reads it and says what came of it
    python tests/mutants.py shard 0 500       # those from 0 to 499, a line each

Each is read in this process, which a limit on its memory and an alarm end if need be; `test_fuzz_files.py` starts it as
a child, finds out from the last line which file ended it, and starts the next one behind that.
"""

import contextlib
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path

SECONDS = 20  # of real time for one file, on a machine that is busy; processor time is told
ROOM = 256 * 2**20  # bytes of memory beside what the process had before: more is a failure
LIMIT = 4 * 2**30  # of address space beside what modules took: the kernel ends who asks for more
PWNED = "pwned"  # what a file that was run would leave


def damaged(draw: random.Random, whole: bytes) -> tuple[bytes, str]:
    """Return bytes cut, flipped, overwritten, inserted, removed or copied over others."""
    at, size = draw.randrange(len(whole)), min(draw.choice((1, 2, 4, 8, 64, 512)), len(whole))
    new = draw.choice((b"\x00", b"\xff", b"\x7f", b"\x80")) * size if draw.random() < 0.4 else draw.randbytes(size)
    changed, way = bytearray(whole), draw.choice(("cut", "flip", "flip", "flip", "write", "insert", "remove", "copy"))
    if way == "cut":
        return whole[:at], f"cut at {at}"
    if way == "flip":
        places = [(draw.randrange(len(whole)), draw.randrange(8)) for _ in range(draw.choice((1, 1, 2, 8)))]
        for place, bit in places:
            changed[place] ^= 1 << bit
        return bytes(changed), f"bits flipped: {places}"
    if way == "copy":
        other = draw.randrange(len(whole))
        new = whole[other : other + size]
    changed[at : at + (0 if way == "insert" else size)] = b"" if way == "remove" else new
    return bytes(changed), f"{way} {size} bytes at {at}"


JUNK = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, 1e-308, float("nan"), float("inf"), "", "x",
    "1", "../../x", "/etc/passwd", "\x00", "x" * 1000, [], {}, [[]], [1, "a", None], {"a": {"b": []}}, [0] * 1000,
]  # fmt: skip


def spoilt(draw: random.Random, value: object, junk: list) -> tuple[object, str]:
    """Return nested dicts and lists with one place changed: another value, a name less, more or other."""
    path, holders = [], []
    node = value = _copy(value)
    while isinstance(node, dict | list) and node and (not path or draw.random() < 0.8):
        key = draw.choice(list(node)) if isinstance(node, dict) else draw.randrange(len(node))
        path.append(key)
        holders.append(node)
        node = node[key]
    new = draw.choice(junk)
    if not path or draw.random() < 0.03:
        return new, f"all replaced by {new!r:.40}"
    way, holder, key = draw.choice(("replace", "replace", "replace", "drop", "add", "rename")), holders[-1], path[-1]
    if way == "replace" or isinstance(holder, list):
        holder[key] = new
    elif way == "add":
        holder[draw.choice(("x", "../x", "", "\x00", "version"))] = new
    else:
        held = holder.pop(key)
        if way == "rename":
            holder[draw.choice(("x", "../x", "", str(key) + "x"))] = held
    return value, f"{way} {path} {new!r:.60}"


def _copy(value: object) -> object:
    if isinstance(value, dict):
        return {key: _copy(x) for key, x in value.items()}
    return [_copy(x) for x in value] if isinstance(value, list) else value


def kinds() -> dict:
    """Return the kinds of files: for each, what makes the n-th in a folder and what reads it."""
    import mutant_checksums
    import mutant_files
    import mutant_shards
    import mutant_states
    import mutant_tensors

    few = {**mutant_states.FEW, **mutant_files.FEW}

    def make(draw: random.Random, home: Path) -> tuple:
        name = draw.choice(sorted(few))
        path, recipe = few[name][0](draw, home)
        return (name, path), f"{name}, {recipe}"

    return {
        "shard": (mutant_shards.make, mutant_shards.read),
        "forged": (mutant_checksums.forge, mutant_shards.read),
        "checkpoint": (mutant_tensors.make_checkpoint, mutant_tensors.read_checkpoint),
        "other": (make, lambda what: few[what[0]][1](what[1])),
    }


def attempt(kind: tuple, name: str, number: int, home: Path) -> dict:
    """Make and read one file in an empty folder; return what came of it: right, error, or what must not be."""
    from gpuion.errors import GpuionError

    make, read = kind
    inside = home / "in"
    inside.mkdir()
    with warnings.catch_warnings(action="ignore"):
        path, recipe = make(random.Random(f"{name} {number}"), inside)  # noqa: S311
    before, began = set(Path.cwd().rglob("*")), time.process_time()
    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory counts from here
    had = memory("VmRSS")
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            said = read(path) or ""
        outcome = "wrong" if said else "right"
    except (GpuionError, ValueError, OSError) as error:
        said = f"{type(error).__name__}: {error}"
        named = isinstance(error, GpuionError | OSError) and home.name in said
        outcome = "error" if named and len(said) < 2000 else "unclear"
    except Exception as error:  # noqa: BLE001, what must not be is what is looked for
        said, outcome = f"{type(error).__name__}: {error}", "traceback"
    told = {"number": number, "recipe": recipe, "outcome": outcome, "said": said.replace(str(home), "")[:300]}
    told |= {"seconds": time.process_time() - began, "bytes": memory("VmHWM") - had}
    if new := set(Path.cwd().rglob("*")) - before:
        told |= {"outcome": "wrote", "said": str(new)}
    elif told["bytes"] > ROOM:
        told["outcome"] = "memory"
    return told


def memory(name: str) -> int:
    """Return how many bytes this process has, or had at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


def main(name: str, first: int, last: int | None = None) -> None:
    """Make and read files by number; print a line before and after each."""
    kind = kinds()[name]
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "TypedStorage is deprecated|Detected pickle protocol")  # torch's own
    most = memory("VmSize") + LIMIT
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for number in range(first, first + 1 if last is None else last):
            home = Path(folder, f"mutant-{number}")
            home.mkdir()
            print(number, flush=True)
            signal.alarm(5 * SECONDS)  # to make it
            told = attempt(kind, name, number, home)
            signal.alarm(0)
            print(json.dumps(told), flush=True)
            shutil.rmtree(home)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
