"""Look at data sets and put them together, from the command line.

python -m gpuion.dataset info runs/data
python -m gpuion.dataset merge runs/round-1 runs/round-2 --out runs/annealed
"""

import dataclasses
import shutil
from pathlib import Path

from gpuion import files
from gpuion.config import Parser
from gpuion.dataset import open_dataset, write_summary
from gpuion.errors import run_script


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Merge:
    """What a merged folder was made of."""

    sources: tuple[str, ...]


def merge(sources: list[Path], out: Path) -> int:
    """Copy the shards of some data sets into one folder, in order; return the number of structures.

    Raises
    ------
    DatasetError
        If one is missing, damaged or made of other cells than the first.
    ConfigError
        If the folder holds something else.
    """
    data = open_dataset(list(sources))
    files.claim_folder(out, "merge", _Merge(sources=tuple(str(source) for source in sources)))
    shards = [shard for s in sources for shard in (sorted(s.glob("shard-*.h5")) if s.is_dir() else [s])]
    (out / "dataset.json").unlink(missing_ok=True)
    for old in out.glob("shard-*.h5"):
        old.unlink()
    for number, shard in enumerate(shards):
        with files.atomic(out / f"shard-{number:05d}.h5") as partial:
            shutil.copyfile(shard, partial)
    write_summary(out, data)
    return len(data)


def info(source: Path) -> None:
    """Print what a data set holds, a line a family."""
    data = open_dataset(source)
    print(f"{len(data)} structures of {data.centers.shape[1]} spheres, diameter {data.diameter:.6g}, box {data.box:g}")
    print(f"labels: {data.method}, {data.sites_per_voxel} sites a voxel; D of D* = 1 is {data.d_reference:.6g}")
    for family in sorted(set(data.family)):
        D = data.subset(data.family == family).mean_diffusivity
        print(
            f"{family:<14}{len(D):>6}   D from {float(D.min()):.4f} to {float(D.max()):.4f}, mean {float(D.mean()):.4f}"
        )


def main() -> None:
    """Read the command line and do as it says."""
    parser = Parser(prog="python -m gpuion.dataset", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    shown = commands.add_parser("info", help="say what a data set holds")
    shown.add_argument("source", type=Path)
    merged = commands.add_parser("merge", help="copy several data sets into one folder")
    merged.add_argument("sources", type=Path, nargs="+")
    merged.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    if given.command == "info":
        info(given.source)
    else:
        print(f"{merge(given.sources, given.out)} structures in {given.out}")


def command_line() -> None:
    """Run `main`; errors are one line."""
    run_script(main)
