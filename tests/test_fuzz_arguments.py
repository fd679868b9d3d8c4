"""Public functions given nonsense: the right answer or a ValueError, no other error, no NaN, nothing that takes long.

What is the same in another form, an array or list, other memory order, numbers of numpy, gives the same answer or is
refused. Arguments of the wrong number of names are Python's own TypeError and not asked for here.
"""

import contextlib
import dataclasses
import decimal
import fractions
import time

import arguments
import numpy as np
import pytest
import torch
from arguments import NONE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gpuion
from gpuion.errors import ConvergenceError, PackingError

ALLOWED = (ValueError, PackingError, ConvergenceError)
SECONDS = 5  # of processor time for a call; some take a second, nonsense should take none
CALLS = arguments.calls()
PAIRS = [(name, argument) for name, call in CALLS.items() for argument in call.kinds]

ODD = [
    None, True, "x", "", "1", b"1", 1j, [], {}, [1.0], object(), float("nan"), np.nan,
    torch.tensor(1.0, device="meta"), torch.tensor(1j), np.datetime64("2020-01-01"), torch.ones(2),
    [[1.0, 2.0], [3.0]], {"a": 1}, np.array("x"), lambda *_: 1.0, type, range(0), {1, 2},
]  # fmt: skip
NUMBERS = [
    0, -1, 0.0, -0.0, 1e-320, 1e-300, 1e-30, 1e30, 1e300, float("inf"), -float("inf"), 10**400, 2**63, 2**64,
    -(2**63), 10**15, 0.5, 1, 2, 3.7, np.float32(0.5), np.float16(2), np.int8(1), np.array(2.0), torch.tensor(0.5),
    decimal.Decimal("0.5"), decimal.Decimal("NaN"), fractions.Fraction(1, 3),
]  # fmt: skip
WORDS = [
    "RANDOM", "random ", "chained", "periodic", "\x00", "../x", "x" * 10000,
]  # fmt: skip
DEVICES = [
    "meta", "nonsense", "cuda", "cuda:99", "cpu:1", "mps", "xla", torch.device("meta"), "", -1, 0,
]  # fmt: skip
AXES = [
    (), (0,), (1, 1), (3,), (-1,), (0.0,), ("0",), (0, 1, 2, 0), 1, "012", (True,), torch.eye(3), [[0]], range(3),
    (float("nan"),), {0}, np.array([0, 1]), torch.tensor([0], device="meta"), (10**30,),
]  # fmt: skip
COUNTS = [
    (), (1,), (1, 2), (0, 1, 2), (1, 1, 2), (1.0, 2, 3), ("1", "2", "3"), (10**9, 1, 2), (-1, 2, 3), 5, "123", None,
    (True, 2, 3), np.array([1, 2, 3]), torch.tensor([1, 2, 3]), [10**20, 2, 3], (float("nan"), 1, 2), (10**6,),
]  # fmt: skip
IDS = [
    [0], [0, 1], [1, 0], [-1, 0], [0, 2**32], [0, 2**70], [0.5, 1.0], ["a", "b"], [None, None], [[0, 1]], "01", 5,
    torch.tensor([0.0, 1.0]), torch.tensor([0, 1], device="meta"), np.array([0, 1], dtype=object), [0, 0], range(2),
    np.array([1, 0])[::-1], torch.tensor([True, False]), [float("nan")] * 2, [99], slice(0, 2),
]  # fmt: skip
PATHS = [
    5, b"x", "", ".", "/", "\x00", "no/such/file", "x" * 300, ["a", "b"], [], [None], "/dev/null", "a.npy", "a.tif",
]  # fmt: skip
TABLES = [
    {0: "x"}, {0: float("nan")}, {0: -1.0, 1: 1.0, 2: 1.0}, {"a": 1.0}, {None: 1.0}, {0: 1j}, {0: None}, [1.0],
    [1.0] * 300, {0: [1.0, 2.0]}, {"D": None}, {"D": [1.0]}, {"D": "ab"}, {"D": [float("nan")] * 2},
    {"../x": [1.0, 2.0]}, {5: [1.0, 2.0]}, {"U": torch.zeros(2, 2)}, {"U": torch.zeros(2, 2, 2, device="meta")},
    {"U": torch.zeros(2, 2, 2, dtype=torch.cfloat)}, {"": torch.zeros(2, 2, 2)}, {"x" * 70000: torch.zeros(2, 2, 2)},
    {0: 1e400, 1: 1.0, 2: 1.0}, {10**30: 1.0}, {0.5: 1.0}, {True: 1.0}, torch.ones(3), {"U": "x"},
    {"U": torch.zeros(2, 2, 2).to_sparse()},
]  # fmt: skip


def others(good):
    """Return the same numbers in other forms."""
    x = good
    is_float, array = x.is_floating_point(), x.numpy()
    forms = [
        x.clone(), x.double() if is_float else x.long(), array, x.tolist(), x.clone().requires_grad_(is_float),
        x.mT.contiguous().mT if x.ndim > 1 else x, torch.stack([x, x], -1)[..., 0], x.flip(0).numpy()[::-1],
        array.astype(">f4" if is_float else ">i8"), array.copy(order="F"),
    ]  # fmt: skip
    locked = x.numpy().copy()
    locked.flags.writeable = False
    return [*forms, locked]


def wrong(good):
    """Return tensors like a good one that are something else."""
    x = (good.double() if good.is_floating_point() else good).reshape(good.shape or (1,))
    some = [
        x.to(kind)
        for kind in (torch.int8, torch.int64, torch.uint16, torch.bool, torch.half, torch.bfloat16, torch.cfloat)
    ]
    some += [x[:0], x[..., :0], x[..., :1], x[0], x[None], x.flatten(), x.to("meta"), x.to_sparse(), x * 0, x[:1]]
    some += [torch.full_like(x, value) for value in (-1, 1)] + [x.expand(1, *x.shape)]
    if good.is_floating_point():
        some += [
            torch.full_like(x, value) for value in (float("nan"), float("inf"), -float("inf"), 1e30, -1e300, 1e-300)
        ]
        for value in (float("nan"), float("inf"), -float("inf"), 1e300, -1.0):
            spoilt = x.clone()
            spoilt.view(-1)[0] = value
            some += [spoilt, spoilt.float()]
    return [*some, x.numpy().astype(object), x.numpy().astype(str), np.array(None), "x", [[["a"]]], [1, [2]]]


LISTED = {
    "length": NUMBERS, "number": NUMBERS, "count": NUMBERS, "flag": [0, 1], "word": WORDS, "device": DEVICES,
    "axes": AXES, "object": [], "counts": COUNTS, "ids": IDS, "path": PATHS, "table": TABLES,
}  # fmt: skip


def values(kind, good):
    """Return what to give in a good value's place, each with whether it is the same in another form."""
    tensor = good if isinstance(good, torch.Tensor) else None
    if kind in LISTED:
        strange = [*LISTED[kind], *ODD]
    else:
        strange = [*wrong(torch.as_tensor(good, dtype=torch.float32) if tensor is None else tensor), *NUMBERS, *ODD]
    same = [] if tensor is None else others(tensor)
    if type(good) in (int, float):
        same = [torch.tensor(good), np.array(good)[()]]
    return [(value, False) for value in strange] + [(value, True) for value in same]


def tensors(value):
    """Yield the tensors within what a function returns."""
    if isinstance(value, torch.Tensor):
        yield torch.view_as_real(value) if value.is_complex() else value
    elif isinstance(value, np.ndarray):
        if value.dtype.kind == "f":
            yield torch.from_numpy(value)
    elif isinstance(value, float):
        yield torch.tensor(value)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from tensors(getattr(value, field.name))


def attempt(call, argument, value, *, same):
    """Call a function with one argument replaced; return what is wrong about what comes of it."""
    told, seconds = outcome(call, argument, value, same=same)
    if seconds >= SECONDS:  # it may have been compiled
        told, seconds = outcome(call, argument, value, same=same)
    return told if seconds < SECONDS else f"{seconds:.1f} s"


def outcome(call, argument, value, *, same):
    """Return what is wrong about what comes of a call, and how many seconds it took."""
    began = time.process_time()
    told = result(call, argument, value, same=same)
    return told, time.process_time() - began


def result(call, argument, value, *, same):
    """Return what is wrong about what comes of a call."""
    try:
        found = call.function(**{**call.good, argument: value})
    except ALLOWED as error:
        said = str(error)
        return "" if 10 < len(said) < 2000 else f"{type(error).__name__} of {len(said)} letters: {said[:200]}"
    except OSError:
        return "" if call.kinds[argument] == "path" else "OSError"
    except ImportError:
        return "" if value == "a.tif" else "ImportError"
    except Exception as error:  # noqa: BLE001, any other is what is looked for
        return f"{type(error).__name__}: {str(error)[:200]}"
    return complaint(call, found, same=same)


def complaint(call, found, *, same):
    """Return what is wrong about an answer."""
    got = list(tensors(found))
    if not call.nan and any(bool(x.isnan().any()) for x in got if x.is_floating_point()):
        return "NaN"
    expected = list(tensors(call.function(**call.good))) if same else got
    alike = [
        torch.allclose(x.double(), y.double(), rtol=1e-5, atol=1e-6, equal_nan=True)
        for x, y in zip(got, expected, strict=True)
    ]
    return "" if all(alike) else "another answer than for the same in another form"


def check(name, argument, value, *, same):
    told = attempt(CALLS[name], argument, value, same=same)
    assert not told, f"{name}({argument}={value!r:.200}): {told}"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Paths among the arguments are of a folder that goes away."""
    monkeypatch.chdir(tmp_path)


def test_every_public_name_has_an_entry():
    called = {name.partition(":")[0] for name in CALLS}
    assert called | NONE | {"Dataset", "Prediction"} == set(gpuion.__all__)
    for name, call in CALLS.items():
        argument, value = next(iter(call.good.items()))
        assert not (told := attempt(call, argument, value, same=True)), f"{name}: {told}"


@pytest.mark.parametrize("name", CALLS)
def test_nonsense_is_refused_or_answered(name):
    for argument, kind in CALLS[name].kinds.items():
        for value, same in values(kind, CALLS[name].good[argument]):
            check(name, argument, value, same=same)


SCALES = (1e-12, 1e-9, 1e-3, 0.5, 1.5, 3, 8, 1e3, 1e6, 1e9, 1e12)
SCALED = [name for name, call in CALLS.items() if {"centers", "box", "diameter"} <= call.kinds.keys()]


@pytest.mark.parametrize("name", SCALED)
def test_another_unit_of_length_is_refused_or_answered(name):
    call = CALLS[name]
    for scale in SCALES:
        scaled = {key: scale * call.good[key] for key in ("centers", "box", "diameter")}
        told = attempt(dataclasses.replace(call, good=call.good | scaled), "box", scaled["box"], same=False)
        assert not told, f"{name}, all lengths {scale:g}-fold: {told}"


def test_a_network_answers_for_the_lengths_that_it_knows_alone():
    good, predict = CALLS["load_surrogate: predict"].good, arguments.shipped().predict
    for scale in SCALES:
        with pytest.raises(ValueError, match=r"learnt from|must be|lengths? within|must lie"):
            predict(**{key: scale * good[key] for key in ("centers", "box", "diameter")})


# Small or far beyond any use: what lies between asks for honest work of hours, which no check can refuse.
HUGE = 2.0**50
NUMBER = st.one_of(
    st.floats(-20, 20), st.floats(HUGE), st.floats(max_value=-HUGE), st.just(float("nan")), st.integers(-4, 4),
    st.integers(int(HUGE), 2**70), st.integers(-(2**70), -int(HUGE)), st.fractions(-9, 9), st.decimals(-9, 9),
)  # fmt: skip
BYTES = st.binary(max_size=4).map(lambda drawn: bytes(n % 21 for n in drawn))  # as a sequence they are numbers, too
ANY = st.one_of(NUMBER, st.text(max_size=8), BYTES, st.complex_numbers(), st.none(), st.booleans())
NESTED = st.one_of(ANY, st.lists(ANY, max_size=4), st.lists(st.lists(NUMBER, max_size=3), max_size=3))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "argument"), PAIRS)
def test_much_nonsense_is_refused_or_answered(name, argument):
    good = CALLS[name].good[argument]
    drawn = NESTED
    if isinstance(good, torch.Tensor):  # numbers in a tensor's places
        places = st.lists(st.tuples(st.integers(0, good.numel() - 1), NUMBER), min_size=1, max_size=4)
        drawn = st.one_of(NESTED, places.map(lambda changes: replaced(good, changes)))

    @settings(max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(drawn)
    def one(value):
        check(name, argument, value, same=False)

    one()


def replaced(good, changes):
    """Return a tensor with some of its numbers replaced."""
    x = good.clone()
    for place, value in changes:
        with contextlib.suppress(RuntimeError, OverflowError, TypeError, ValueError):  # what does not fit its type
            x.view(-1)[place] = float(value) if x.is_floating_point() else int(value)
    return x
