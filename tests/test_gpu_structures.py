"""What a GPU computes, beside what a CPU does: spheres, sites, images and what describes them."""

import importlib

import torch
from cells import SIGMA, peak, spheres

import gpuion
from gpuion import descriptors, insertion
from gpuion.design import Design, arrange

FAMILIES = [
    ("random", {}),
    ("chained", {"distance": (SIGMA, 11.0)}),
    ("chained", {"distance": (20.0, 30.0)}),
    ("gapped", {"gap": 13.0, "axes": (2,)}),
    ("gapped", {"gap": 11.0, "axes": (0, 1, 2)}),
    ("gapped", {"gap": 10.0, "axes": (0, 1), "distance": (12.5, 13.5)}),
]


def test_the_same_spheres_are_placed(real, monkeypatch):
    size = {"n_particles": 91, "box": 75.0} if real else {"n_particles": 8, "box": 45.0}
    if not real:
        monkeypatch.setattr(insertion, "_TESTED", 2**11)
    for family, options in FAMILIES:
        for seed in (0, 2**63 + 9):
            here, there = (
                gpuion.place(
                    family, n_structures=3, **size, diameter=SIGMA, seed=seed, ids=[2**32 - 1, 0, 7], device=device,
                    **options,
                )
                for device in ("cpu", "cuda")
            )  # fmt: skip
            assert there.is_cuda
            assert torch.equal(here, there.cpu())


def test_the_same_design_is_arranged(real, monkeypatch):
    if real:  # as the paper preset has it; 75 structures of all families, of which none jams
        ranges, widths = ((SIGMA * 1.01, 11.0), (11.0, 12.5), (20.0, 30.0)), ((14.0, 26.0), (14.0, 26.0), (14.0, 20.0))
        design = Design(
            particles=91, box=75.0, diameter=SIGMA, random=25, chained=25, gapped=25, ranges=ranges, widths=widths
        )
    else:  # 100 draws a sphere, so that some jam and are drawn again
        monkeypatch.setattr(insertion, "_TESTED", 2**11)
        for module in ("insertion", "packing"):
            monkeypatch.setattr(importlib.import_module(f"gpuion.{module}"), "MAX_DRAWS", 100)
        design = Design(
            particles=6, box=20.0, diameter=6.0, random=2, chained=3, gapped=4, ranges=(("contact", 8.0),),
            widths=((5.0, 8.0), (5.0, 6.0), (3.0, 4.0)),
        )  # fmt: skip
    numbers = list(range(len(design)))
    assert torch.equal(arrange(design, numbers), arrange(design, numbers, "cuda").cpu())


def test_the_same_sites_are_labelled(cell):
    # The exponentials of two libraries differ by 1e-16: a class changes where ρ is that near a boundary, which among
    # 1e7 sites has a chance of 1e-7 or so.
    centers = spheres(cell, 3)
    for refinement in (1, 2):
        here, there = (
            gpuion.electrolyte(c, box=cell["box"], diameter=cell["diameter"], sites_per_voxel=refinement).labels
            for c in (centers, centers.to("cuda"))
        )
        assert there.is_cuda
        assert torch.equal(here, there.cpu())


def test_the_same_images_are_drawn(cell):
    centers = spheres(cell, 5) * 3 - cell["box"]
    options = {"box": cell["box"], "diameter": cell["diameter"], "voxels": round(cell["box"])}
    image = gpuion.voxelize(centers.to("cuda"), **options)
    assert image.is_cuda
    assert torch.equal(image.cpu(), gpuion.voxelize(centers, **options))


def test_the_same_neighbours_are_found(cell):
    centers, box = spheres(cell, 4), cell["box"]
    options = {"box": box, "cutoff": min(14.0, box / 2)}
    for here, there in [
        (descriptors.clusters(centers, **options), descriptors.clusters(centers.to("cuda"), **options)),
        (descriptors.percolates(centers, **options), descriptors.percolates(centers.to("cuda"), **options)),
    ]:
        assert torch.equal(here, there.cpu())
    here, there = (descriptors.nearest_distance(c, box=box) for c in (centers, centers.to("cuda")))
    assert torch.allclose(here, there.cpu(), rtol=1e-14)  # a few float64 roundings
    here, there = (gpuion.describe(c, **options) for c in (centers, centers.to("cuda")))
    assert torch.equal(here.sizes, there.sizes.cpu())
    assert torch.equal(here.percolates, there.percolates.cpu())


def test_the_same_g_of_r_components_and_correlations_are_found(cell, tmp_path):
    centers, box = spheres(cell, 4), cell["box"]
    here, there = (gpuion.pair_distribution(c, box=box) for c in (centers, centers.to("cuda")))
    assert torch.allclose(here, there.cpu(), rtol=1e-14, atol=0)  # equal counts, a few float64 roundings
    found = gpuion.principal_components(there)
    # Two backward stable decompositions of a matrix of some 1: 1e-13; gaps of the shares of some 1e-2 divide that.
    assert torch.allclose(found.share.cpu(), gpuion.principal_components(here).share, atol=1e-11)
    assert torch.allclose(found.scores.cpu() @ found.components.cpu() + found.mean.cpu(), here, atol=1e-11)
    for ranks in (False, True):
        a, b = gpuion.correlation(here, here[:, -1], ranks=ranks), gpuion.correlation(there, there[:, -1], ranks=ranks)
        assert torch.allclose(a, b.cpu(), atol=1e-12, equal_nan=True)
    gpuion.write_xyz(tmp_path / "a.xyz", centers.to("cuda"), box=box, diameter=5.0, info={"D": there[:, 0]})
    medium = gpuion.electrolyte(centers[:1], box=box, diameter=cell["diameter"]).to("cuda")
    gpuion.write_medium(tmp_path / "a.vtkhdf", medium, axis=0, tolerance=1e-3)
    assert len(list(tmp_path.iterdir())) == 2


def test_placing_labelling_and_drawing_keep_to_their_bounds(real):
    count, cell = (
        (4096, {"box": 75.0, "diameter": SIGMA, "n": 91}) if real else (3, {"box": 30.0, "diameter": 4.0, "n": 3})
    )
    centers = []
    assert peak(lambda: centers.append(spheres(cell, count, "cuda"))) <= 2 * 48 * insertion._TESTED
    centers = centers[0][:16]
    size = {"box": cell["box"], "diameter": cell["diameter"]}
    labels = len(centers) * round(cell["box"]) ** 3
    # Labels, their copy as the medium's, one chunk's twice: 4 bytes a site; temporaries as the modules say.
    assert peak(lambda: gpuion.electrolyte(centers, **size)) <= 4 * labels + 2**28
    assert peak(lambda: gpuion.voxelize(centers, **size, voxels=round(cell["box"]))) <= 4 * labels + 2**28
