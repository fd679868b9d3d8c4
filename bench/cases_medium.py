"""Placing spheres, drawing images and media: rates beside plain numpy, which must give the same answer."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import peers
import torch
from measure import Limit, Row, Setting, bandwidth, in_turn

import gpuion


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Cell:
    """The paper's structures, or small ones."""

    spheres: int
    box: float
    batch: int

    @property
    def diameter(self) -> float:
        return gpuion.sphere_diameter(self.spheres, self.box, 0.1)


def _cell(setting: Setting, batch: int) -> _Cell:
    return _Cell(spheres=8, box=36.0, batch=2) if setting.tiny else _Cell(spheres=91, box=75.0, batch=batch)


def place(setting: Setting) -> Iterator[Row]:
    """Structures placed a second, three families, against plain numpy for random ones."""
    cell = _cell(setting, 64)
    families = {
        "random": {},
        "chained": {"distance": (12.5, 13.5)},
        "gapped": {"gap": 20.0 if not setting.tiny else 6.0, "axes": (0, 1)},
    }
    for family, more in families.items():
        task = lambda f=family, m=more: gpuion.place(  # noqa: E731
            f, n_structures=cell.batch, n_particles=cell.spheres, box=cell.box, diameter=cell.diameter,
            device=setting.device, **m,
        )  # fmt: skip
        plain = lambda: peers.plain_place(cell.spheres, cell.box, cell.diameter, 0)  # noqa: E731
        seconds = in_turn(task, *([plain] if family == "random" else []), repeats=setting.repeats)
        yield Row(
            what=f"place, {family}, {cell.spheres} spheres, φ = 0.1, batch {cell.batch}", unit="structures/s",
            samples=[cell.batch / s for s in seconds[0]], peer=f"numpy {np.__version__}, one at a time",
            peer_samples=[1 / s for s in seconds[1]] if family == "random" else [],
        )  # fmt: skip


def voxelize(setting: Setting) -> Iterator[Row]:
    """Binary images a second, against plain numpy."""
    cell = _cell(setting, 64)
    sites = int(cell.box)
    centers = gpuion.place(
        "random", n_structures=cell.batch, n_particles=cell.spheres, box=cell.box, diameter=cell.diameter
    ).to(setting.device)
    first = centers[0].double().cpu().numpy()
    task = lambda: gpuion.voxelize(centers, box=cell.box, diameter=cell.diameter, voxels=sites)  # noqa: E731
    plain = lambda: peers.plain_voxelize(first, cell.box, cell.diameter, sites)  # noqa: E731
    if not np.array_equal(task()[0, 0].cpu().numpy(), plain()):
        raise ValueError("voxelize and plain numpy draw different images")
    seconds = in_turn(task, plain, repeats=setting.repeats)
    yield Row(
        what=f"voxelize, {cell.spheres} spheres, {sites}³, batch {cell.batch}", unit="images/s",
        samples=[cell.batch / s for s in seconds[0]], peer=f"numpy {np.__version__}, one at a time",
        peer_samples=[1 / s for s in seconds[1]],
        limit=Limit(value=bandwidth(setting.device) / (4 * sites**3), what="the image written once"),
    )  # fmt: skip


def medium(setting: Setting) -> Iterator[Row]:
    """Site classes of coated spheres, sites a second, at one and more sites a voxel, against plain numpy."""
    cell, model = _cell(setting, 1), gpuion.TransportModel()
    centers = gpuion.place("random", n_structures=1, n_particles=cell.spheres, box=cell.box, diameter=cell.diameter).to(
        setting.device
    )
    first = centers[0].double().cpu().numpy()
    for finer in (1,) if setting.tiny else (1, 2, 3):
        sites = int(cell.box) * finer
        task = lambda k=finer: gpuion.electrolyte(  # noqa: E731
            centers, box=cell.box, diameter=cell.diameter, sites_per_voxel=k
        )
        plain = lambda n=sites: peers.plain_classes(first, cell.box, cell.diameter, n, model)  # noqa: E731
        differ = float((task().labels[0].cpu() != torch.from_numpy(plain())).float().mean())
        if differ > 1e-4:  # rounding may move a density across the edge of a class
            raise ValueError(f"electrolyte and plain numpy give other classes to {differ:.2%} of the sites")
        seconds = in_turn(task, plain, repeats=setting.repeats)
        yield Row(
            what=f"electrolyte, {cell.spheres} spheres, {sites}³", unit="sites/s",
            samples=[sites**3 / s for s in seconds[0]], peer=f"numpy {np.__version__}",
            peer_samples=[sites**3 / s for s in seconds[1]], facts={"classes_that_differ": differ},
            limit=Limit(value=bandwidth(setting.device), what="the labels written once"),
        )  # fmt: skip
