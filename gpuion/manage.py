"""Look at data sets, put them together, take some of them and fix which test a network, from the command line.

python -m gpuion.dataset info runs/data
python -m gpuion.dataset merge runs/round-1 runs/round-2 --out runs/annealed
python -m gpuion.dataset merge runs/part-1 runs/part-2 --out runs/data
python -m gpuion.dataset split runs/data --stratify family
python -m gpuion.dataset subset data/study --train 300 --validation 200 --family random chained --out runs/small

Folders that hold all parts of one run (simulate.py --part) become the very files of that run without parts, whatever
their order; others follow each other. A subset keeps its structures in their parts and the unit of D*: what is trained
on it can be tested on the whole.
"""

import dataclasses
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpuion import files, shards, splits
from gpuion.checks import check_seed
from gpuion.config import Parser
from gpuion.dataset import Dataset, open_dataset, read_shard, write_shard, write_summary
from gpuion.description import info
from gpuion.errors import ConfigError, DatasetError, run_script
from gpuion.work import parse_part


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Merge:
    """What a merged folder was made of."""

    sources: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Subset:
    """What a folder with some of a data set's structures was made of."""

    source: str
    families: tuple[str, ...]
    counts: dict[str, int | None]


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
    with files.claim_folder(out, "merge", _Merge(sources=tuple(str(source) for source in sources))):
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
    parts = [parse_part(str(name)) for name in names]
    total = parts[0][1]
    if sorted(parts) != [(k, total) for k in range(1, total + 1)]:
        raise DatasetError(f"expected each of the {total} parts of a run once, found {', '.join(sorted(names))}")
    return True


def _run(folder: Path) -> dict[str, Any]:
    try:
        run = files.read_json(folder / "run.json")
        return dict(run["config"]) if run["script"] == "simulate" else {}
    except (ValueError, KeyError, TypeError):
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


def subset(source: Path, out: Path, counts: Mapping[str, int | None], families: Sequence[str] = ()) -> np.ndarray:
    """Copy the first structures of each part of a data set, in its order; return the part of each copy, str [n].

    Parameters
    ----------
    source, out : Path
        Folders.
    counts : mapping of str to int or None
        How many of train, validation and test to take; all of a part that is None or not there.
    families : sequence of str
        Which families to take from; all if there are none.

    Raises
    ------
    DatasetError
        If the folder is no data set.
    ConfigError
        For a family that it has not, more structures than there are, or a folder that holds something else.
    """
    if not source.is_dir():
        raise DatasetError(f"{source}: expected a folder of shards, found none; a subset is of a folder")
    data = open_dataset(source)
    unknown = set(families) - set(data.family)
    if unknown:
        there = ", ".join(sorted(set(data.family)))
        raise ConfigError(f"{source} has no structures of family {', '.join(sorted(unknown))}; it has {there}")
    part, kept = splits.parts_of(data), np.zeros(len(data), dtype=bool)
    for name in splits.PARTS:
        at = np.flatnonzero((part == name) & (np.isin(data.family, list(families)) if families else True))
        count = counts.get(name)
        if count is not None and not 0 <= count <= len(at):
            raise ConfigError(f"{name} must lie in 0 … {len(at)}, what {source} has of it, got {count}")
        kept[at[:count]] = True
    if not kept.any():
        raise ConfigError(f"nothing is left of {source}; ask for one structure or more")
    chosen = _Subset(source=str(source), families=tuple(families), counts=dict(counts))
    with files.claim_folder(out, "subset", chosen):
        some, first = data.subset(torch.from_numpy(kept)), 0
        for path in sorted(source.glob("shard-*.h5")):
            held = read_shard(path)
            of, first = kept[first : first + len(held)], first + len(held)
            if of.any():
                _, made_by = shards.read(path)
                config, seed = shards.config_of(path, made_by), int(made_by["seed"])
                write_shard(out / path.name, held.subset(torch.from_numpy(of)), seed=seed, config=config)
        write_summary(out, some)
        splits.write(out, some, part[kept], {"subset": str(source)})
    return part[kept]


def main() -> None:
    """Read the command line and do as it says."""
    parser = Parser(prog="python -m gpuion.dataset", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, title="commands, each of which has a --help")
    shown = commands.add_parser("info", help="say what a data set holds").add_argument_group("files")
    shown.add_argument("source", type=Path, help="folder or shard")
    merged = commands.add_parser("merge", help="copy several data sets into one folder").add_argument_group("files")
    merged.add_argument("sources", type=Path, nargs="+", help="folders or shards")
    merged.add_argument("--out", type=Path, required=True, help="folder to write")
    _add_split(commands.add_parser("split", help="fix the parts that train, choose and test networks, in split.json"))
    _add_subset(commands.add_parser("subset", help="copy some structures of each part, for training on fewer"))
    given = parser.parse_args()
    if given.command == "info":
        info(given.source)
    elif given.command == "merge":
        print(f"{merge(given.sources, given.out)} structures in {given.out}")
    elif given.command == "subset":
        counts = {name: getattr(given, name) for name in splits.PARTS}
        _tell(subset(given.source, given.out, counts, given.family), given.out)
    else:
        _tell(split(given.source, given.seed, tuple(given.fractions), given.stratify), given.source)


def _add_split(parser: Parser) -> None:
    paths, parts = parser.add_argument_group("files"), parser.add_argument_group("the parts")
    paths.add_argument("source", type=Path, help="folder, in which split.json is written")
    parts.add_argument(
        "--fractions", type=float, nargs=3, default=(0.6, 0.2, 0.2), metavar=("TRAIN", "VALID", "TEST"),
        help="share of each part; they add up to 1",
    )  # fmt: skip
    parts.add_argument(
        "--stratify", choices=splits.STRATA, default="none",
        help="give each family, or each fifth of D of each family, its share of each part",
    )  # fmt: skip
    parser.add_argument_group("the run").add_argument("--seed", type=int, default=splits.SEED, help="seed of the draw")


def _add_subset(parser: Parser) -> None:
    paths, structures = parser.add_argument_group("files"), parser.add_argument_group("structures")
    paths.add_argument("source", type=Path, help="folder")
    paths.add_argument("--out", type=Path, required=True, help="folder to write")
    for name in splits.PARTS:
        text = f"how many of its {name} part, the first ones; all if not given"
        structures.add_argument(f"--{name}", type=int, help=text)
    structures.add_argument("--family", nargs="+", default=[], help="families to take from; all if not given")


def _tell(part: np.ndarray, folder: Path) -> None:
    print(", ".join(f"{name} {int((part == name).sum())}" for name in splits.PARTS), "in", folder)


def command_line() -> None:
    """Run `main`; errors are one line."""
    run_script(main)
