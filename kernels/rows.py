"""What lattice kernels share on a CPU: sums of weighted rows, and the rows of voxels inside a sphere."""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from gpuion.kernels import caching  # noqa: F401, before anything is compiled

# Nothing may be reordered, so a number's bits do not depend on how many are made, nor on what is inlined where.
# A function is called by each of some threads: loops of numba's own threads take four times as long to compile.
inline = numba.njit(cache=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
jit = numba.njit(cache=True, nogil=True)


@intrinsic
def fma(typing, a, b, c):  # noqa: ARG001, numba's signature
    """Return a b + c rounded once, on every processor: half the instructions where there is one for it."""

    def generate(context, builder, signature, arguments):  # noqa: ARG001
        kind = arguments[0].type
        name = "llvm.fma.f32" if isinstance(kind, ir.FloatType) else "llvm.fma.f64"
        function = builder.module.declare_intrinsic(name, fnty=ir.FunctionType(kind, [kind] * 3))
        return builder.call(function, arguments)

    return (types.float32 if a == types.float32 else types.float64)(a, a, a), generate


def aligned(*size: int) -> np.ndarray:
    """Return zeros float32, the first at a line of the cache: a vector that lies across two takes twice the time."""
    flat = np.zeros(math.prod(size) + 16, np.float32)
    first = -flat.ctypes.data % 64 // 4
    return flat[first : first + math.prod(size)].reshape(size)


@inline
def fill(row, value):
    """Set a row to a value: numba's own assignment takes ten times as long for some slices."""
    for i in range(len(row)):
        row[i] = value


@inline
def add_rows(rows, begin, weights, out):
    """Add to `out` [n] the rows [R, …] from `begin` on, each times its weight, the first row first; R in fours.

    One output and eight inputs a loop: of more, LLVM would not test whether they overlap, and use no vectors.
    """
    n, end, r = len(out), begin + len(out), 0
    while r + 8 <= len(weights):
        a, b, c, d = rows[r, begin:end], rows[r + 1, begin:end], rows[r + 2, begin:end], rows[r + 3, begin:end]
        e, f, g, h = rows[r + 4, begin:end], rows[r + 5, begin:end], rows[r + 6, begin:end], rows[r + 7, begin:end]
        s, t, u, v = weights[r], weights[r + 1], weights[r + 2], weights[r + 3]
        w, x, y, z = weights[r + 4], weights[r + 5], weights[r + 6], weights[r + 7]
        for i in range(n):
            total = fma(v, d[i], fma(u, c[i], fma(t, b[i], fma(s, a[i], out[i]))))
            out[i] = fma(z, h[i], fma(y, g[i], fma(x, f[i], fma(w, e[i], total))))
        r += 8
    if r < len(weights):
        a, b, c, d = rows[r, begin:end], rows[r + 1, begin:end], rows[r + 2, begin:end], rows[r + 3, begin:end]
        s, t, u, v = weights[r], weights[r + 1], weights[r + 2], weights[r + 3]
        for i in range(n):
            out[i] = fma(v, d[i], fma(u, c[i], fma(t, b[i], fma(s, a[i], out[i]))))


@inline
def exponential(x):
    """Return e^x of a float32 within ±87, to 1e-7 of it, in a loop of vectors: 2ⁿ e^r with x = n log 2 + r.

    Adding 1.5 · 2²³, whose float32 neighbours are 1 apart, rounds x / log 2 to the whole number n, and leaves n in the
    lowest bits of the sum. Log 2 is taken off in two parts, of which n times the first is exact. The polynomial
    1 + r + r² (1/2 + …) is the one of Moshier's Cephes library, expf. Numba would widen what is not cast.
    """
    whole = np.float32(12582912.0)  # 1.5 · 2²³
    shifted = fma(x, np.float32(1.442695041), whole)  # 1 / log 2
    n = shifted - whole
    r = fma(n, np.float32(2.12194440e-4), fma(n, np.float32(-0.693359375), x))
    series = fma(np.float32(1.9875691500e-4), r, np.float32(1.3981999507e-3))
    series = fma(fma(series, r, np.float32(8.3334519073e-3)), r, np.float32(4.1665795894e-2))
    series = fma(fma(fma(series, r, np.float32(1.6666665459e-1)), r, np.float32(0.5)), r, np.float32(1))
    # n into the bits of a float32's exponent, beside that of 1.
    power = np.int32((np.float32(shifted).view(np.int32) << 23) + 0x3F800000)
    return fma(series, r, np.float32(1)) * np.int32(power).view(np.float32)


@inline
def span(center, reach, spacing):
    """Return the first and one past the last index of all voxels that may lie within reach of a centre on an axis."""
    return int(np.floor((center - reach) / spacing - 0.5)), int(np.ceil((center + reach) / spacing - 0.5)) + 1


@inline
def inside(center, plane, square, spacing):
    """Return the first and one past the last voxel of a row inside a sphere, by its centre's coordinate along the row.

    `plane` is the squared distance across, below `square`, the squared radius. Only the ends are tested.
    """
    first, last = span(center, math.sqrt(square - plane), spacing)
    while first < last and not plane + ((first + 0.5) * spacing - center) ** 2 < square:
        first += 1
    while first < last and not plane + ((last - 0.5) * spacing - center) ** 2 < square:
        last -= 1
    return first, last


def share(task: Callable[[int], None], pool: ThreadPoolExecutor | None, threads: int) -> None:
    """Call a task with each number of a thread, at once where there is a pool."""
    if pool is None:
        task(0)
    else:
        list(pool.map(task, range(threads)))
