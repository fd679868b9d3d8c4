"""Which structures of a data set train a network, which choose it and which test it.

Legend: n structures, S strata. Parts are in the order training, validation, test.

`split.json` in a data set's folder fixes that for good: positions in the order of the shards, and a fingerprint of the
structures, so that it cannot be taken for another set's. Where there is none, train.py splits with seed 0.
"""

import json
import math
import reprlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gpuion import files
from gpuion.errors import ConfigError, DatasetError
from gpuion.kernels.reference import Stream, philox

if TYPE_CHECKING:
    from gpuion.dataset import Dataset

NAME = "split.json"
PARTS = ("train", "validation", "test")
STRATA = ("none", "family", "diffusivity")
SCHEMA, VERSION = "gpuion-split", 1
SEED = 0  # not the user's seed: a retrained network must not meet its test structures in training

_FIFTHS = 5  # of D within a family


def split(n: int, seed: int, fractions: tuple[float, float, float] = (0.6, 0.2, 0.2)) -> tuple[Tensor, Tensor, Tensor]:
    """Return the positions of training, validation and test structures: a random permutation, cut in three.

    Validation and test have ⌊n · fraction⌋ structures, training the rest: 4916, 1638 and 1638 of 8192.

    Raises
    ------
    ValueError
        For fractions that are negative or do not add up to 1.
    """
    _check(n, fractions)
    word = philox(seed, 0, 0, torch.arange(n), Stream.SPLIT)[0]
    held = [math.floor(n * fraction + 1e-9) for fraction in fractions[1:]]
    train, validation, test = torch.argsort(word, stable=True).split([n - sum(held), *held])
    return train, validation, test


def stratified(strata: np.ndarray, seed: int, fractions: tuple[float, float, float] = (0.6, 0.2, 0.2)) -> np.ndarray:
    """Return the part of each structure, str [n], such that each stratum has its share of each part to within one.

    The whole has, too. Within a stratum the choice is random.

    Parameters
    ----------
    strata : numpy array [n]
        The stratum of each structure, any values.
    seed : int
    fractions : three floats

    Raises
    ------
    ValueError
        For fractions that are negative or do not add up to 1.
    """
    n = len(strata)
    _check(n, fractions)
    totals = np.array([0, *(math.floor(n * fraction + 1e-9) for fraction in fractions[1:])])
    totals[0] = n - totals.sum()
    if totals[0] > n * fractions[0] + 1 - 1e-9:  # both others were rounded down by much
        more = 1 + int(np.argmax(n * np.array(fractions[1:]) - totals[1:]))
        totals[[0, more]] += (-1, 1)
    _, stratum, sizes = np.unique(strata, return_inverse=True, return_counts=True)
    word = philox(seed, 0, 0, torch.arange(n), Stream.SPLIT)[0].numpy()
    part = np.empty(n, dtype=f"<U{max(map(len, PARTS))}")
    for number, quota in enumerate(_quotas(sizes, np.array(fractions), totals)):
        members = np.flatnonzero(stratum == number)
        part[members[np.argsort(word[members], kind="stable")]] = np.repeat(PARTS, quota)
    return part


def assign(data: "Dataset", seed: int, fractions: tuple[float, float, float], stratify: str) -> np.ndarray:
    """Return the part of each structure of a data set, str [n].

    `stratify` is "none", "family", or "diffusivity": fifths of the mean D within each family.

    Raises
    ------
    ValueError
        For fractions that are negative or do not add up to 1, or an unknown way to stratify.
    """
    if stratify not in STRATA:
        raise ValueError(f"stratify must be one of {', '.join(STRATA)}, got {stratify!r}")
    if stratify == "none":
        return named(split(len(data), seed, fractions))
    strata = np.array(data.family, dtype=object)
    if stratify == "diffusivity":
        D = data.mean_diffusivity.cpu().numpy()
        for family in set(data.family):
            members = np.flatnonzero(data.family == family)
            rank = np.argsort(np.argsort(D[members], kind="stable"), kind="stable")
            strata[members] = [f"{family} {fifth}" for fifth in rank * _FIFTHS // len(members)]
    return stratified(strata.astype(str), seed, fractions)


def named(positions: tuple[Tensor, Tensor, Tensor]) -> np.ndarray:
    """Return the part of each structure, str [n], from the positions of each part's."""
    part = np.empty(sum(map(len, positions)), dtype=f"<U{max(map(len, PARTS))}")
    for name, at in zip(PARTS, positions, strict=True):
        part[at.numpy()] = name
    return part


def parts_of(data: "Dataset") -> np.ndarray:
    """Return the part of each structure, str [n]: as its folder's split.json says, else as train.py divides it."""
    return named(split(len(data), SEED)) if data.part is None else data.part


def positions(part: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """Return the positions of training, validation and test structures, int64 each."""
    train, validation, test = (torch.from_numpy(np.flatnonzero(part == name)) for name in PARTS)
    return train, validation, test


def write(folder: Path, data: "Dataset", part: np.ndarray, made_by: dict[str, Any]) -> None:
    """Write `split.json`, once and for all.

    Raises
    ------
    ConfigError
        If the folder has another split already.
    """
    path = folder / NAME
    at = {name: np.flatnonzero(part == name).tolist() for name in PARTS[1:]}
    content = {"schema": SCHEMA, "version": VERSION, **_identity(data), "made_by": made_by, **at}
    if path.exists() and files.read_json(path) != content:
        raise ConfigError(f"{path} holds another split; remove it to give up that test set for good")
    with files.atomic(path) as partial:
        partial.write_text(json.dumps(content) + "\n")


def read(folder: Path, data: "Dataset") -> tuple[np.ndarray, dict[str, Any]] | None:
    """Return the part of each structure, str [n], and how it was chosen; None if the folder has no split.

    Raises
    ------
    DatasetError
        If `split.json` is damaged or of other structures.
    """
    path = folder / NAME
    if not path.exists():
        return None
    try:
        content = files.read_json(path)
        kind, made_by = (content["schema"], content["version"]), dict(content["made_by"])
        held = [_positions(content[name]) for name in PARTS[1:]]
        structures = {name: content[name] for name in _identity(data)}
    except DatasetError:
        raise
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise DatasetError(f"{path}: expected a split, found: {type(error).__name__} {error}") from None
    if kind != (SCHEMA, VERSION):
        raise DatasetError(f"{path}: schema: expected {SCHEMA} version {VERSION}, found {reprlib.repr(kind)}")
    if structures != _identity(data):
        raise DatasetError(f"{path}: structures: expected those of its folder, found a split of others")
    part, both = np.full(len(data), PARTS[0], dtype=f"<U{max(map(len, PARTS))}"), np.concatenate(held)
    if len(np.unique(both)) != len(both) or (len(both) and not 0 <= both.min() <= both.max() < len(data)):
        raise DatasetError(f"{path}: expected each position once, from 0 to {len(data) - 1}, found others")
    for name, at in zip(PARTS[1:], held, strict=True):
        part[at] = name
    return part, made_by


def _positions(given: Any) -> np.ndarray:
    """Return positions as JSON has them, int64 [n]; 1.5 and "1" are none."""
    if not isinstance(given, list) or not all(type(at) is int for at in given):
        raise TypeError("a part that is no list of whole numbers")
    return np.array(given, dtype=np.int64)


def _identity(data: "Dataset") -> dict[str, Any]:
    """Return what a split belongs to: structures in their order, whatever their labels."""
    return {"n_structures": len(data), "sha256": files.fingerprint({"id": data.id, "centers": data.centers})}


def _check(n: int, fractions: tuple[float, float, float]) -> None:
    if not min(fractions) >= 0 or not math.isclose(sum(fractions), 1.0) or n < 0:
        raise ValueError(f"n and the fractions must be ≥ 0, the fractions add up to 1; got {n} and {fractions}")


def check_parts(part: np.ndarray) -> None:
    """Refuse a split that leaves a part without structures: nothing would train, choose or test a network.

    Raises
    ------
    ConfigError
        It names the parts.
    """
    empty = [name for name in PARTS if not (part == name).any()]
    if empty:
        raise ConfigError(
            f"of {len(part)} structures none would be for {' and '.join(empty)}; split a larger set, or choose other "
            "--fractions"
        )


def _quotas(sizes: np.ndarray, fractions: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """Return integers [S, 3] with these sums over parts and strata, each at most one from size · fraction.

    Each stratum's units left over by rounding down go one each to the parts that still miss most: if any way to place
    them meets the sums, this one does (Ryser's construction of a matrix of zeros and ones).
    """
    quota = np.floor(np.outer(sizes, fractions) + 1e-9).astype(int)
    missing = totals - quota.sum(0)
    for row, left in zip(quota, sizes - quota.sum(1), strict=True):
        most = np.argsort(-missing, kind="stable")[:left]
        row[most] += 1
        missing[most] -= 1
    assert not missing.any()
    return quota
