"""Write structures of data sets for programs that show them: OVITO and ASE (extended XYZ), ParaView (VTKHDF).

python -m gpuion.export runs/data --xyz arrangements.xyz
python -m gpuion.export runs/data --ids 3 17 --xyz two.xyz
python -m gpuion.export runs/data --id 722 --vtkhdf medium.vtkhdf --sites-per-voxel 2 --axis 0

The second kind holds the medium of one structure and, with --axis, the stationary current along it.
"""

if __name__ == "__main__":  # before torch, which takes seconds to load: a stop meanwhile is one line, too
    from gpuion.errors import expect_stops

    expect_stops()

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from gpuion.config import Parser
from gpuion.dataset import Dataset, open_dataset
from gpuion.distributed import pick_device
from gpuion.errors import DatasetError, run_script
from gpuion.medium import electrolyte
from gpuion.vtkhdf import write_medium, write_vtkhdf
from gpuion.xyz import write_xyz

__all__ = ["pick", "write_medium", "write_vtkhdf", "write_xyz"]


def pick(data: Dataset, ids: Sequence[int]) -> Dataset:
    """Return the structures of these ids, in this order; all of them where rounds of annealing share an id.

    Raises
    ------
    DatasetError
        If an id is not there.
    """
    at = [(data.id == number).nonzero().flatten() for number in ids]
    missing = [number for number, found in zip(ids, at, strict=True) if not len(found)]
    if missing:
        span = f"{int(data.id.min())} … {int(data.id.max())}"
        raise DatasetError(f"id: expected some of the {len(data)} structures, {span}, found {missing} asked for")
    return data.subset(torch.cat(at))


def main() -> None:
    """Read the command line and do as it says."""
    given = _given()
    device = pick_device(given.device)
    data = open_dataset(given.sources)
    chosen = data if given.ids is None else pick(data, given.ids)
    one = None if given.id is None else pick(data, [given.id])
    if one is not None and len(one) > 1:
        raise DatasetError(
            f"id: expected one structure {given.id}, found {len(one)}; name the shard with the one meant"
        )
    if given.xyz is not None:
        write_xyz(given.xyz, chosen)
        print(f"{len(chosen)} structures in {given.xyz}")
    if one is not None:
        medium = electrolyte(
            one.centers.to(device),
            box=one.box,
            diameter=one.diameter,
            sites_per_voxel=one.sites_per_voxel if given.sites_per_voxel is None else given.sites_per_voxel,
            model=one.model,
        )
        write_medium(given.vtkhdf, medium, axis=given.axis)
        print(f"structure {given.id} on {medium.labels.shape[-1]}³ sites in {given.vtkhdf}")


def _given() -> argparse.Namespace:
    parser = Parser(prog="python -m gpuion.export", description=__doc__)
    paths = parser.add_argument_group("files")
    paths.add_argument("sources", type=Path, nargs="+", help="folders of shards, or single shards")
    many = parser.add_argument_group("arrangements")
    many.add_argument("--xyz", type=Path, help="write them as this extended XYZ file, a frame a structure")
    many.add_argument("--ids", type=int, nargs="+", help="structures for --xyz; all if not given")
    one = parser.add_argument_group("the medium of one structure")
    one.add_argument("--vtkhdf", type=Path, help="write it as this VTKHDF image")
    one.add_argument("--id", type=int, help="the structure; must be given with --vtkhdf")
    one.add_argument(
        "--sites-per-voxel", type=int, help="lattice sites along a voxel's edge; the data set's if not given"
    )
    one.add_argument(
        "--axis", type=int, choices=(0, 1, 2), help="add the current along this axis, 0 is x; none if not given"
    )
    parser.add_argument_group("the run").add_argument(
        "--device", default="auto", help="where --vtkhdf is computed: auto, cpu or cuda"
    )
    given = parser.parse_args()
    _check(parser, given)
    return given


def _check(parser: Parser, given: argparse.Namespace) -> None:
    """Refuse flags that have nothing to act on, and files in no folder, before any work."""
    if given.xyz is None and given.vtkhdf is None:
        parser.error("nothing to write: give --xyz or --vtkhdf with a file name")
    if given.ids is not None and given.xyz is None:
        parser.error("--ids are of --xyz, which is not given")
    for flag in ("id", "sites_per_voxel", "axis"):
        if getattr(given, flag) is not None and given.vtkhdf is None:
            parser.error(f"--{flag.replace('_', '-')} is of --vtkhdf, which is not given")
    if given.vtkhdf is not None and given.id is None:
        parser.error("--vtkhdf needs --id, the number of one structure")
    for path in (given.xyz, given.vtkhdf):
        if path is not None and not path.parent.is_dir():
            parser.error(f"{path} cannot be written: there is no folder {path.parent}")


def command_line() -> None:
    """Run `main`; errors are one line."""
    run_script(main)


if __name__ == "__main__":
    command_line()
