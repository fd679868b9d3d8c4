"""Look at data sets, put them together and fix which structures test a network, from the command line.

python -m gpuion.dataset info runs/data
python -m gpuion.dataset merge runs/round-1 runs/round-2 --out runs/annealed
python -m gpuion.dataset merge runs/part-1 runs/part-2 --out runs/data
python -m gpuion.dataset split runs/data --stratify family

Folders that hold all parts of one run (simulate.py --part) become the very files of that run without parts, whatever
their order; others follow each other.
"""

import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from gpuion import files, splits
from gpuion.checks import check_seed
from gpuion.config import Parser
from gpuion.dataset import Dataset, open_dataset, write_summary
from gpuion.description import info
from gpuion.errors import DatasetError, run_script
from gpuion.work import parse_part


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Merge:
    """What a merged folder was made of."""

    sources: tuple[str, ...]


def merge(sources: list[Path], out: Path) -> int:
    """Copy the shards of some data sets into one folder, in order; return the number of structures.

    The shards of all parts of one run keep their names, and the unit of D* is the run's; else the unit is the first
    one's, and if each has a split, that of the whole is made of those.

    Raises
    ------
    DatasetError
        If one is missing, damaged or made of other cells than the first, if not all parts of a run are there, or if an
        arrangement is there twice.
    ConfigError
        If the folder holds something else.
    """
    are_parts = _are_parts(sources)
    data = open_dataset(list(sources))
    _check_once(data)
    files.claim_folder(out, "merge", _Merge(sources=tuple(str(source) for source in sources)))
    shards = [shard for s in sources for shard in (sorted(s.glob("shard-*.h5")) if s.is_dir() else [s])]
    for old in ("dataset.json", splits.NAME):
        (out / old).unlink(missing_ok=True)
    for shard in out.glob("shard-*.h5"):
        shard.unlink()
    for number, shard in enumerate(shards):
        with files.atomic(out / (shard.name if are_parts else f"shard-{number:05d}.h5")) as partial:
            shutil.copyfile(shard, partial)
    write_summary(out, dataclasses.replace(data, d_reference=np.nan) if are_parts else data)
    if data.part is not None and not are_parts:
        splits.write(out, data, data.part, {"merged": [str(source) for source in sources]})
    elif any((s / splits.NAME).exists() for s in sources if s.is_dir()):
        print("their splits are left behind; `python -m gpuion.dataset split` makes one of the whole")
    return len(data)


def _check_once(data: Dataset) -> None:
    """Refuse structures that are there twice: a split could train a network on what tests it."""
    columns = [data.id, data.centers, *([] if data.predicted is None else [data.predicted])]
    rows = zip(data.family, *(column.numpy() for column in columns), strict=True)
    keys = [(family, *(value.tobytes() for value in row)) for family, *row in rows]
    times = Counter(keys)
    twice = sorted({number for number, key in zip(data.id.tolist(), keys, strict=True) if times[key] > 1})
    if twice:
        raise DatasetError(
            f"id: expected each structure once, found {len(twice)} of them twice or more: "
            f"{', '.join(map(str, twice[:5]))} …; give each source once"
        )


def _are_parts(sources: list[Path]) -> bool:
    """Return whether these are all parts of one run of simulate.py; some of them only are refused."""
    runs = [_run(source) for source in sources]
    names = [run.pop("part", "") for run in runs]
    if not all(names) or any(run != runs[0] for run in runs):
        return False
    parts = [parse_part(name) for name in names]
    total = parts[0][1]
    if sorted(parts) != [(k, total) for k in range(1, total + 1)]:
        raise DatasetError(f"expected each of the {total} parts of a run once, found {', '.join(sorted(names))}")
    return True


def _run(folder: Path) -> dict[str, Any]:
    try:
        run = json.loads((folder / "run.json").read_text())
        return dict(run["config"]) if run["script"] == "simulate" else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def split(source: Path, seed: int, fractions: tuple[float, float, float], stratify: str) -> np.ndarray:
    """Fix which structures of a data set train, choose and test networks; return the part of each, str [n].

    Raises
    ------
    ValueError
        For fractions that are negative or do not add up to 1, or a seed out of [0, 2⁶⁴).
    DatasetError
        If the folder is no data set.
    ConfigError
        If it has another split already, or a part would have no structures.
    """
    if not source.is_dir():
        raise DatasetError(f"{source}: expected a folder of shards, found none; a split belongs to a folder")
    seed = check_seed(seed)
    data: Dataset = open_dataset(source)
    part = splits.assign(data, seed, fractions, stratify)
    splits.check_parts(part)
    splits.write(source, data, part, {"seed": seed, "fractions": list(fractions), "stratify": stratify})
    return part


def main() -> None:
    """Read the command line and do as it says."""
    parser = Parser(prog="python -m gpuion.dataset", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    shown = commands.add_parser("info", help="say what a data set holds")
    shown.add_argument("source", type=Path)
    merged = commands.add_parser("merge", help="copy several data sets into one folder")
    merged.add_argument("sources", type=Path, nargs="+")
    merged.add_argument("--out", type=Path, required=True)
    cut = commands.add_parser("split", help="fix the parts that train, choose and test networks, in split.json")
    cut.add_argument("source", type=Path)
    cut.add_argument("--seed", type=int, default=splits.SEED)
    cut.add_argument("--fractions", type=float, nargs=3, default=(0.6, 0.2, 0.2), metavar=("TRAIN", "VALID", "TEST"))
    cut.add_argument(
        "--stratify", choices=splits.STRATA, default="none",
        help="give each family, or each fifth of D of each family, its share of each part",
    )  # fmt: skip
    given = parser.parse_args()
    if given.command == "info":
        info(given.source)
    elif given.command == "merge":
        print(f"{merge(given.sources, given.out)} structures in {given.out}")
    else:
        part = split(given.source, given.seed, tuple(given.fractions), given.stratify)
        print(", ".join(f"{name} {int((part == name).sum())}" for name in splits.PARTS), "in", given.source)


def command_line() -> None:
    """Run `main`; errors are one line."""
    run_script(main)
