"""Triton kernels without a GPU: interpreted they equal their twins bit for bit; compiled they keep to a budget."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

triton = pytest.importorskip("triton")

HERE = Path(__file__).parent


def run_interpreted(name):
    """Run a file of tests in a process of its own, where Triton was imported as an interpreter."""
    command = [sys.executable, "-m", "pytest", str(HERE / "interpreted" / name), "-p", "no:cacheprovider"]
    env = {**os.environ, "TRITON_INTERPRET": "1"}
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"\d+ passed", result.stdout)


@pytest.mark.skipif(
    triton.__version__.startswith("3.6") and np.lib.NumpyVersion(np.__version__) >= "2.4.0",
    reason="this Triton's interpreter cannot loop over a run-time number with this numpy",
)
def test_walk_interpreted():
    run_interpreted("walk_equality.py")


def compile_walk(capability, ones=""):
    """Compile the walk for a GPU that need not be here; return its assembly and ptxas's account of it."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from gpuion.kernels.walk import walk_kernel

    pointers = {"fields": "*u8", "rates": "*i64", "start": "*i64", "first": "*i32", "quads": "*i32", "ids": "*i64"}
    pointers |= {"displacement": "*i32", "hops_made": "*i32"}
    scalars = dict.fromkeys(("key0", "key1", "last", "first_walker", "size", "W", "T"), "i32")
    ones = dict.fromkeys(ones, 1)  # a launch compiles an argument of 1 as a constant
    signature = {**pointers, **scalars, "BLOCK": "constexpr", **dict.fromkeys(ones, "constexpr")}
    source = ASTSource(walk_kernel, signature, constexprs={"BLOCK": 128, **ones})
    return triton.compile(
        source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 4, "enable_fp_fusion": False}
    )


def tool(name):
    """Return the path of a CUDA tool that comes with Triton."""
    bundled = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    return str(bundled) if bundled.exists() else shutil.which(name)


def machine_code(binary, tmp_path):
    """Return (resource usage, instructions) of a compiled kernel."""
    cubin = tmp_path / "kernel.cubin"
    cubin.write_bytes(binary.asm["cubin"])
    usage = subprocess.run([tool("cuobjdump"), "-res-usage", str(cubin)], capture_output=True, text=True, check=True)
    code = subprocess.run([tool("nvdisasm"), "-c", str(cubin)], capture_output=True, text=True, check=True)
    return usage.stdout + usage.stderr, code.stdout


def hottest_loop(code):
    """Return the instructions of the innermost backward jump that holds the most of them."""
    lines = [
        line for line in code.splitlines() if re.search(r"/\*[0-9a-f]{4,}\*/\s+\S", line) or re.match(r"\.L_", line)
    ]
    labels = {line.split(":")[0]: number for number, line in enumerate(lines) if line.startswith(".L_")}
    loops = []
    for number, line in enumerate(lines):
        target = re.search(r"BRA.*`\((\.L_\w+)\)", line)
        if target and labels.get(target.group(1), number) < number:
            loops.append((labels[target.group(1)], number))
    innermost = [a for a in loops if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    start, end = max(innermost, key=lambda loop: loop[1] - loop[0])
    return [line for line in lines[start:end] if not line.startswith(".L_")]


@pytest.mark.parametrize("capability", [80, 90, 100])
def test_walk_compiles_within_its_budget(capability, tmp_path):
    usage, code = machine_code(compile_walk(capability), tmp_path)
    registers = int(re.search(r"REG:(\d+)", usage).group(1))
    stack, shared = (int(re.search(rf"{word}:(\d+)", usage).group(1)) for word in ("STACK", "SHARED"))
    loop = hottest_loop(code)
    attempts = 4  # one Philox call a turn of the loop
    text = "\n".join(loop)
    assert len(re.findall(r"\bIMAD", text)) > 30, "this is not the loop of the walk"
    assert (stack, shared) == (0, 0)
    assert not re.search(r"\b(LDL|STL|LDS|STS|BAR)\b", text), "the loop spills or waits for its neighbours"
    assert registers <= REGISTERS, registers
    assert len(loop) / attempts <= INSTRUCTIONS, len(loop) / attempts


REGISTERS = 40
"""At 40 an SM holds 12 blocks of 128 threads, 75% of what it can schedule; 30 to 32 measured hold all 16."""

INSTRUCTIONS = 41
"""Instructions an attempt, 38.5 to 40 measured on two Tritons and three GPU generations: a quarter of Philox 13, word
to direction and mask 3, step and seam 8, two look-ups 6, decision 3, move and count 6. Counts are emptied outside this
loop, which adds 1 or 2."""


def test_every_site_has_an_address_of_its_own():
    from gpuion import kmc
    from gpuion.kernels.walk import LARGEST, address

    assert kmc._LARGEST == LARGEST
    assert int(address(*(torch.tensor(sites - 1) for sites in LARGEST))) == 2**32 - 1
    for axis in range(3):  # the bits of an axis are its own, from any two coordinates that differ
        coordinates = [torch.zeros(LARGEST[axis], dtype=torch.int64)] * 3
        coordinates[axis] = torch.arange(LARGEST[axis])
        assert len(address(*coordinates).unique()) == LARGEST[axis]
    corner = torch.arange(8)
    cube = address(corner[:, None, None], corner[:, None], corner)
    assert sorted(cube.flatten().tolist()) == list(range(512))  # a brick of 8³ sites is one piece of memory


@pytest.mark.parametrize("ones", [("size",), ("W", "T"), ("size", "W", "T")])
def test_walk_compiles_for_sizes_of_one(ones):
    assert "cubin" in compile_walk(90, ones).asm
