"""How a run of labelling is divided, and how it goes on after a stop or a kill.

Legend: n structures of a shard, B of a batch, N particles.

Machines take parts of the shards, ranks of a machine take shards of its part. While a shard is unfinished, the labels
of each finished batch lie in a hidden file beside it, so that a kill loses the batch in flight and no more: 2 to 6 ms
a batch of 8 structures of 91 spheres.
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from gpuion import files
from gpuion.errors import CheckpointError, ConfigError
from gpuion.labeling import Labels

T = TypeVar("T")


def parse_part(part: str) -> tuple[int, int]:
    """Return (k, m) of "k/m", the k-th of m parts, counted from 1; of "", the only one.

    Raises
    ------
    ConfigError
        For anything else.
    """
    k, _, m = (part or "1/1").partition("/")
    if not (k.isdecimal() and m.isdecimal() and 1 <= int(k) <= int(m)):
        raise ConfigError(f"part must be k/m with 1 ≤ k ≤ m, as in 2/8, got {part!r}")
    return int(k), int(m)


def share(items: Sequence[T], part: str) -> Sequence[T]:
    """Return a part's items: every m-th from the k-th on.

    Raises
    ------
    ConfigError
        For a part that is none, or more parts than items.
    """
    k, m = parse_part(part)
    if m > max(1, len(items)):
        raise ConfigError(f"part {part}: there are {len(items)} shards to share; ask for fewer parts or smaller shards")
    return items[k - 1 :: m]


def label_shard(
    path: Path, centers: Tensor, ids: Tensor, size: int, solve: Callable[[Tensor, Tensor], Labels],
    progress: Callable[[int, int], object], *, mark: str,
) -> Labels:  # fmt: skip
    """Return the labels of a shard's structures, those that an earlier run found included.

    Parameters
    ----------
    path : Path
        The shard; the batches lie beside it until `drop` removes them.
    centers : float32 [n, N, 3]
    ids : int64 [n]
    size : int
        Structures labelled together; it may differ from run to run.
    solve : callable
        (centers [B, N, 3], ids [B]) → labels.
    progress : callable
        Called with (B, 0) for each batch that was labelled and with (0, B) for each that was found.
    mark : str
        What labels depend on beside the structures; batches of another mark are made again.
    """
    done, missing = [], torch.ones(len(ids), dtype=torch.bool)
    for at, labels in _found(path, centers.cpu(), ids, mark):
        if bool(missing[at].all()):
            missing[at] = False
            done.append((at, labels))
            progress(0, len(at))
    left = missing.nonzero()[:, 0]
    for at in left.split(size) if len(left) else ():
        labels = solve(centers[at.to(centers.device)], ids[at])
        if len(at) < len(ids):  # else the shard itself follows at once
            content = {"mark": mark, "at": at, "id": ids[at], "centers": centers[at.to(centers.device)].cpu()}
            files.save_tensors(path.with_name(f".{path.name}.{int(at[0]):05d}.batch"), content | vars(labels))
        done.append((at, labels))
        progress(len(at), 0)
    order = torch.cat([at for at, _ in done]).argsort()
    parts = [vars(labels) for _, labels in done]
    present = [name for name, x in parts[0].items() if x is not None]
    return Labels(**{name: torch.cat([part[name] for part in parts])[order] for name in present})


def drop(path: Path) -> None:
    """Remove the batches of a shard that is whole."""
    for batch in _batches(path):
        batch.unlink(missing_ok=True)


def _batches(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f".{path.name}.*.batch"))


def _found(path: Path, centers: Tensor, ids: Tensor, mark: str) -> list[tuple[Tensor, Labels]]:
    """Return positions and labels of the batches of this very shard; others are removed, damaged ones named."""
    found, names = [], {field.name for field in dataclasses.fields(Labels)}
    for batch in _batches(path):
        try:
            held = dict(files.load_tensors(batch))
            at, theirs = held.pop("at"), {name: held.pop(name) for name in ("mark", "id", "centers")}
            same = theirs["mark"] == mark and torch.equal(ids[at], theirs["id"])
            if same and torch.equal(centers[at], theirs["centers"]) and held.keys() == names:
                found.append((at, _checked(held, len(at))))
                continue
        except (CheckpointError, OSError, LookupError, TypeError, ValueError, RuntimeError) as error:
            print(f"warning: a damaged batch is made again: {error}", file=sys.stderr)
        batch.unlink(missing_ok=True)
    return found


def _checked(held: dict[str, Any], B: int) -> Labels:
    """Return the labels of a batch of B structures, if they are some."""
    for name, x in held.items():
        flags = name.startswith("converged")
        expected = (torch.bool, (B,)) if flags else (torch.float64, (B, 3))
        found = (x.dtype, tuple(x.shape)) if isinstance(x, Tensor) else type(x)
        if found != expected and not (x is None and name.endswith(("_kmc", "z_score"))):
            raise TypeError(f"{name} is {found}")
        if name in {"diffusivity", "standard_error"} and not bool(x.isfinite().all()):
            raise ValueError(f"{name} is not finite")
    return Labels(**held)
