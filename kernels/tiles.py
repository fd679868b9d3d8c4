"""Tiles of a matrix in vectors, on a CPU: what compilers do not make of loops, as LLVM's own instructions.

A row of a tile has eight float64: as many vectors as the processor makes of them, and the same bits on all.
"""

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, register_jitable

EDGE = 8  # columns of a tile, and rows that are added to others at once
ROWS = 4  # to which they are added
_NUMBER, _INDEX = ir.DoubleType(), ir.IntType(64)
_VECTOR = ir.VectorType(_NUMBER, EDGE)


@register_jitable
def tiled(n):
    """Return the next multiple of a tile's edge: how many rows or columns there are with those that fill up."""
    return (n + EDGE - 1) // EDGE * EDGE


class _Tile:
    """Rows of a matrix [·, width], and numbers [·], float64 in C order, while code is generated."""

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        kinds = signature.args[:2]
        assert all(kind.dtype == types.float64 and kind.layout == "C" for kind in kinds)
        matrix, numbers = (context.make_array(kinds[k])(context, builder, arguments[k]) for k in (0, 1))
        self.builder, self.matrix, self.numbers = builder, matrix.data, numbers.data
        self.width = builder.extract_value(matrix.shape, 1)

    def place(self, row: Any, below: int, column: Any) -> Any:
        """Return where eight numbers lie, so many rows below another."""
        line = self.builder.mul(self.builder.add(row, ir.Constant(_INDEX, below)), self.width)
        place = self.builder.gep(self.matrix, [self.builder.add(line, column)])
        return self.builder.bitcast(place, _VECTOR.as_pointer())

    def load(self, place: Any) -> Any:
        """Return the eight numbers there."""
        return self.builder.load(place, align=8)

    def store(self, value: Any, place: Any) -> None:
        """Put eight numbers there."""
        self.builder.store(value, place, align=8)

    def number(self, k: int) -> Any:
        """Return number k eight times."""
        value = self.builder.load(self.builder.gep(self.numbers, [ir.Constant(_INDEX, k)]))
        undefined = ir.Constant(_VECTOR, ir.Undefined)
        one = self.builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
        return self.builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(ir.IntType(32), EDGE), [0] * EDGE))

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """Return a b + c, rounded once."""
        kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
        return self.builder.call(self.builder.module.declare_intrinsic("llvm.fma.v8f64", fnty=kind), [a, b, c])


@intrinsic
def add_tile(typing, matrix, numbers, source, target, column):  # noqa: ARG001, numba's signature
    """Add to four rows from `target` on, in eight columns, eight rows from `source` on, each times its number.

    Numbers [4, 8] flat, in the order of the rows. Nothing looks at the matrix's bounds.
    """

    def generate(context, builder, signature, arguments):
        tile = _Tile(context, builder, signature, arguments)
        source, target, column = arguments[2:]
        places = [tile.place(target, k, column) for k in range(ROWS)]
        sums = [tile.load(place) for place in places]
        for p in range(EDGE):
            row = tile.load(tile.place(source, p, column))
            sums = [tile.fma(tile.number(k * EDGE + p), row, sums[k]) for k in range(ROWS)]
        for value, place in zip(sums, places, strict=True):
            tile.store(value, place)
        return context.get_dummy_value()

    return types.none(matrix, numbers, types.int64, types.int64, types.int64), generate


@intrinsic
def solve_tile(typing, matrix, numbers, first, column):  # noqa: ARG001, numba's signature
    """Solve L x = b in place for eight columns b of eight rows from `first` on; return whether any is not zero.

    Numbers [8, 8] flat: of column p of L, 1 / L_pp in the place p, p, and −L_qp in the places p, q. Nothing looks at
    the matrix's bounds.
    """
    zeros = ir.Constant(_VECTOR, [0.0] * EDGE)

    def generate(context, builder, signature, arguments):
        tile = _Tile(context, builder, signature, arguments)
        first, column = arguments[2:]
        places = [tile.place(first, p, column) for p in range(EDGE)]
        rows = [tile.load(place) for place in places]
        filled = ir.Constant(ir.VectorType(ir.IntType(1), EDGE), [0] * EDGE)
        for row in rows:
            filled = builder.or_(filled, builder.fcmp_unordered("!=", row, zeros))
        some = builder.icmp_unsigned("!=", builder.bitcast(filled, ir.IntType(EDGE)), ir.Constant(ir.IntType(EDGE), 0))
        with builder.if_then(some):
            for p in range(EDGE):
                rows[p] = builder.fmul(rows[p], tile.number(p * EDGE + p))
                tile.store(rows[p], places[p])
                for q in range(p + 1, EDGE):
                    rows[q] = tile.fma(tile.number(p * EDGE + q), rows[p], rows[q])
        return some

    return types.boolean(matrix, numbers, types.int64, types.int64), generate
