"""Machine code of the walk's kernel, compiled for a GPU that need not be here: what an attempt costs there."""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

_TYPES = {
    **dict.fromkeys(("labels", "fields"), "*u8"),
    **dict.fromkeys(("leave_table", "enter_table"), "*fp32"),
    **dict.fromkeys(("ids", "keys", "rates"), "*i64"),
    **dict.fromkeys(("start", "first", "quads", "displacement", "hops_made"), "*i32"),
    "BLOCK": "constexpr",
}
ATTEMPTS = 4  # a turn of the hot loop: one Philox call makes four words

# Lanes a clock of a multiprocessor of sm_90 (CUDA programming guide, arithmetic throughput): 32-bit integer adds,
# logic, shifts, comparisons 64; multiply-adds 64, on another pipe; conversions 16 (64 from 32-bit to 32-bit types);
# and four warps' instructions in all, 128.
_ISSUE, _ALU, _MULTIPLY = 128, 64, 64
_ALU_CODES = r"^(IADD3|LOP3|SHF|ISETP|SEL|LEA|IMNMX|VIADD|VIMNMX|PRMT|PLOP3|FSETP|FSEL|FMNMX|IABS)"
_MULTIPLY_CODES = r"^(IMAD|IMUL)"


def read_walk(capability: int) -> dict[str, Any]:
    """Return instructions an attempt of the hot loop, in all and by pipe, and the registers of a thread."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from gpuion.kernels.walk import walk_kernel

    signature = {name: _TYPES.get(name, "i32") for name in walk_kernel.arg_names}
    source = ASTSource(walk_kernel, signature, constexprs={"BLOCK": 128})
    options = {"num_warps": 4, "enable_fp_fusion": False}
    binary = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "walk.cubin"
        cubin.write_bytes(binary.asm["cubin"])
        usage = _tool("cuobjdump", "-res-usage", str(cubin))
        loop = _hottest_loop(_tool("nvdisasm", "-c", str(cubin)))
    registers = re.search(r"REG:(\d+)", usage)
    assert registers
    return {
        "instructions": len(loop) / ATTEMPTS,
        "alu": sum(bool(re.match(_ALU_CODES, code)) for code in loop) / ATTEMPTS,
        "multiply": sum(bool(re.match(_MULTIPLY_CODES, code)) for code in loop) / ATTEMPTS,
        "loads": sum(bool(re.match(r"^LDG?\b", code)) for code in loop) / ATTEMPTS,
        "registers": int(registers.group(1)),
    }


def roofline(counts: dict[str, Any], multiprocessors: int, clock: float) -> float:
    """Return attempts a second if every pipe of every multiprocessor were always fed; an estimate, from above."""
    clocks = max(counts["instructions"] / _ISSUE, counts["alu"] / _ALU, counts["multiply"] / _MULTIPLY)
    return multiprocessors * clock / clocks


def _tool(name: str, *arguments: str) -> str:
    """Return what a CUDA tool that comes with Triton says."""
    import triton

    bundled = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    path = str(bundled) if bundled.exists() else shutil.which(name)
    if path is None:
        raise FileNotFoundError(f"{name} comes neither with this Triton nor with a CUDA toolkit on the path")
    done = subprocess.run([path, *arguments], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def _hottest_loop(code: str) -> list[str]:
    """Return the operations of the innermost backward jump that spans the most of them, predicates left out."""
    lines: list[str] = []
    labels: dict[str, int] = {}
    loops: list[tuple[int, int]] = []
    for text in code.splitlines():
        label = re.match(r"(\.L_\w+):", text)
        instruction = re.search(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(\S.*)", text)
        if label:
            labels[label.group(1)] = len(lines)
        elif instruction:
            lines.append(instruction.group(1))
            back = re.search(r"^BRA.*`\((\.L_\w+)\)", lines[-1])
            if back and back.group(1) in labels:
                loops.append((labels[back.group(1)], len(lines)))
    # The jump onto itself that ends a kernel spans one instruction, and loses.
    innermost = [a for a in loops if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    begin, end = max(innermost, key=lambda loop: loop[1] - loop[0])
    return lines[begin:end]
