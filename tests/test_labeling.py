"""Labels: the same for any batch and any number of threads, with errors that mean something where D is nothing."""

import os
import subprocess
import sys

import pytest
import torch
from test_models import folder
from test_training import ROOT

import gpuion
from gpuion.labeling import Labels, beyond, deviation, label


def test_labels_do_not_depend_on_batch_or_threads():
    centers = gpuion.place("random", n_structures=3, n_particles=8, box=20.0, volume_fraction=0.05)
    setting = {"box": 20.0, "diameter": gpuion.sphere_diameter(8, 20.0, 0.05), "method": "both", "walkers": 1000}
    setting |= {"time": 20.0, "tolerance": 1e-2}
    ids, threads = torch.arange(3), torch.get_num_threads()
    many = label(centers, ids=ids, **setting)
    try:
        torch.set_num_threads(1)
        alone = label(centers[2:], ids=ids[2:], **setting)
    finally:
        torch.set_num_threads(threads)
    for name, value in vars(many).items():
        assert torch.equal(value[2:].nan_to_num(), getattr(alone, name).nan_to_num()), name


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="method must be one of exact, kmc, both, got 'guess'"):
        label(torch.zeros(1, 1, 3), box=10.0, diameter=3.0, method="guess")


def test_a_label_of_the_laptop_cell_does_not_depend_on_threads():
    diameter = gpuion.sphere_diameter(27, 50.0, 0.1)
    centers = gpuion.place("random", n_structures=1, n_particles=27, box=50.0, diameter=diameter, seed=2)
    threads, labels = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            labels.append(label(centers, box=50.0, diameter=diameter, tolerance=1e-2))
    finally:
        torch.set_num_threads(threads)
    for name in ("diffusivity", "standard_error", "converged"):
        assert torch.equal(getattr(labels[0], name), getattr(labels[1], name)), name


def crooked_wall():
    """Return overlapping spheres [1, 32, 3] that shut x though no layer of sites is shut.

    One half of the wall stands at x = 2, the other at x = 10, and two sheets along x join them.
    """
    columns = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 2), (2, 3)]
    return torch.tensor([[(4.0 * x + 2, 4.0 * y + 2, 4.0 * z + 2) for x, y in columns for z in range(4)]])


def test_the_error_of_a_label_of_nothing_is_that_of_the_bounds_scale():
    cell = {"box": 16.0, "diameter": 6.5}
    labels = label(crooked_wall(), **cell, tolerance=1e-3)
    medium = gpuion.electrolyte(crooked_wall(), **cell)
    assert not (medium.labels == 255).flatten(2).all(-1).any()
    # Nothing gets through, so D_xx is all error, and the label says so.
    D, error = labels.diffusivity[0], labels.standard_error[0]
    assert 0 <= D[0] <= error[0]
    # Voigt bound by hand: the bonds along each axis.
    weight = torch.exp(-medium.potential)[medium.labels.long()]
    mobility = (medium.diffusivity[medium.labels.long()] * weight).sqrt()
    voigt = torch.stack([(mobility * mobility.roll(-1, axis)).sum() for axis in (1, 2, 3)]) / weight.sum()
    result = gpuion.homogenize(medium, tolerance=1e-3)
    assert D[0] < 1e-6 * voigt[0] < D[1:].min()
    torch.testing.assert_close(result.scale[0], torch.maximum(D, 1e-6 * voigt), rtol=1e-12, atol=0)
    assert torch.equal(error, result.error[0] * result.scale[0])


def test_z_scores_hold_both_errors_and_are_nan_where_either_did_not_settle():
    def rows(*values):
        return torch.tensor([values], dtype=torch.float64).repeat(3, 1)

    labels = Labels(
        diffusivity=rows(0.2, 0.2, 0.0), standard_error=rows(0.003, 0.0, 0.0),
        diffusivity_kmc=rows(0.21, 0.19, 0.0), standard_error_kmc=rows(0.004, 0.002, 0.0),
        converged=torch.tensor([True, True, False]), converged_kmc=torch.tensor([True, False, True]),
    )  # fmt: skip
    z = deviation(labels)
    torch.testing.assert_close(z[0], torch.tensor([2.0, -5.0, 0.0]).double(), rtol=1e-6, atol=0)  # 3-4-5
    assert z[1:].isnan().all()
    far, settled, chance = beyond(z)
    assert far.tolist() == [True, False, False]
    assert (settled, chance) == (1, pytest.approx(3 * 6.334e-5, rel=1e-3))  # P(|z| > 4) of a normal z
    assert beyond(z, 6.0)[0].sum() == 0


def test_walks_go_on_until_the_mean_is_known():
    centers = gpuion.place("random", n_structures=1, n_particles=4, box=12.0, volume_fraction=0.05)
    cell = {"box": 12.0, "diameter": gpuion.sphere_diameter(4, 12.0, 0.05)}
    auto = {"method": "both", "time": "auto", "walkers": 200, "tolerance": 1e-2}
    found, rough = (label(centers, **cell, **auto, rtol=rtol) for rtol in (0.02, 0.06))
    assert bool((rough.standard_error_kmc > found.standard_error_kmc).all())
    assert found.converged_kmc.all()
    assert float(found.standard_error_kmc.square().sum().sqrt() / 3 / found.diffusivity_kmc.mean()) < 0.04
    assert not label(centers, **cell, method="kmc", time=1.0, walkers=200).converged.any()


def test_the_example_tells_how_well_labels_repeat_themselves(tmp_path):
    data = folder(tmp_path / "data")
    command = [sys.executable, str(ROOT / "examples" / "label_noise.py"), str(data), "--count", "2"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    first, shifted, closer = done.stdout.splitlines()
    assert first.startswith("2 structures, D to 0.005")
    assert 0 < float(shifted.split()[-1]) < 1  # docs/models.md has 0.1%
    assert -0.05 < float(closer.split()[2]) < 0.5  # no more than the tolerance
