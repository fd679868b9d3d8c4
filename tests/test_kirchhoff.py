"""Circuits of spheres: currents in series and in parallel, nothing connected, gradients."""

import dataclasses
import math

import pytest
import torch
from rehearsal import rehearse

import gpuion
from gpuion import kirchhoff
from gpuion.contacts import contacts, lengths, vectors
from gpuion.kirchhoff import Circuit, plane_waves, power, wave_vectors

BOX = 60.0


def circuit(centers, cutoff=13.0, *, g=2.0, orders=(0.0, 0.0), coupling=1e-12, solvent=0.0, spread=1.0, alpha=0.0):
    """Return a circuit of equal conductances between spheres closer than the cutoff."""
    x = torch.as_tensor(centers, dtype=torch.float64)
    vector = vectors(x, BOX)
    found = contacts(vector, lengths(vector), cutoff)
    waves, slopes, squares = plane_waves(x, wave_vectors(BOX, 0.25), radius=6.0)
    ones = torch.ones(x.shape[:2], dtype=torch.float64)
    return Circuit(
        ends=found.ends, vector=found.vector.double(), slots=found.slots, conductance=g * found.real.double(),
        spread=spread * ones, orders=torch.tensor(orders, dtype=torch.float64), coupling=coupling * ones,
        solvent=torch.full((len(x),), solvent, dtype=torch.float64), waves=waves, slopes=slopes, squares=squares,
        polarizability=alpha * ones, volume=BOX**3,
    )  # fmt: skip


def chain(n=5, y=0.0):
    return [[BOX / n * k, 1.0 + y, 2.0] for k in range(n)]


def test_a_chain_is_contacts_in_series():
    # Five equal contacts across the cell take BOX / 5 of potential each: P = 5 g (BOX / 5)².
    found = power(circuit([chain()]))
    assert torch.allclose(found, torch.tensor([[5 * 2 * 12.0**2, 0, 0]], dtype=torch.float64), rtol=1e-7, atol=1e-7)
    # The shells of a straight chain resist in series: s (G(1) − G(−1)) at both ends of a contact. Even orders cancel.
    found = power(circuit([chain()], orders=(0.3, 0.1), spread=1.5))
    assert float(found[0, 0]) == pytest.approx(5 * 12.0**2 / (1 / 2 + 2 * 1.5 * (0.4 - (-0.3 + 0.1))), rel=1e-7)


def test_a_corner_resists_by_its_angle():
    # A staircase: x and y in turn. At both ends of each contact the way goes on at a right angle: G(1) − G(0) each,
    # with P_1 = P_3 = 0 and P_2 = −1/2 there.
    steps = torch.tensor([[k % 2, (k + 1) % 2, 0] for k in range(10)]) * 12.0
    centers = steps.cumsum(0) % BOX
    found = power(circuit(centers[None].double(), cutoff=12.5, orders=(0.3, 0.1, 0.05)))
    resistance = 10 * (1 / 2 + 2 * (0.45 - 0.1 * -0.5))
    # A field along x drives BOX of potential through all ten contacts.
    assert float(found[0, 0]) == pytest.approx(BOX**2 / resistance, rel=1e-7)
    assert float(found[0, 1]) == pytest.approx(BOX**2 / resistance, rel=1e-7)
    assert float(found[0, 2]) == pytest.approx(0, abs=1e-6)


def test_two_chains_conduct_in_parallel_and_alone_or_together():
    pair = chain() + chain(y=30.0)
    one, two = circuit([chain()], orders=(0.3, 0.1)), circuit([pair], orders=(0.3, 0.1))
    assert float(power(two)[0, 0]) == pytest.approx(2 * float(power(one)[0, 0]), rel=1e-7)


def test_no_path_conducts_nothing_and_stays_finite():
    broken = [row for k, row in enumerate(chain()) if k != 2]
    for centers in (broken, [[1.0, 2.0, 3.0], [30.0, 30.0, 30.0]]):
        found = power(circuit([centers], orders=(0.3, 0.1)))
        assert bool(found.isfinite().all())
        # The ground that holds clusters is 1e-9 of a contact: 1e-9 · 60² · g is the most that it takes.
        assert float(found.abs().max()) < 1e-4


def test_an_empty_cell_conducts_as_its_bath_and_spheres_in_it_add_to_that():
    bath = power(circuit([[[1.0, 2.0, 3.0]]], solvent=0.01))
    assert torch.allclose(bath, torch.full((1, 3), 0.01 * BOX**3, dtype=torch.float64), rtol=1e-9)
    row = circuit([chain(4)], cutoff=16.0, solvent=0.01, coupling=5.0)  # a closed chain carries what it would alone
    assert float(power(row)[0, 0]) == pytest.approx(0.01 * BOX**3 + 4 * 2 * 15.0**2, rel=1e-7)
    broken = dataclasses.replace(row, conductance=row.conductance * torch.tensor([1, 1, 1, 0.0]))
    # The bath helps over the break: more than its own power, less than with the chain whole.
    assert 0.01 * BOX**3 * 1.01 < float(power(broken)[0, 0]) < float(power(row)[0, 0])


def test_spheres_evenly_spread_add_their_polarizability_to_the_bath():
    # A cubic array drives no wave that the bath has: the field is one everywhere.
    centers = torch.cartesian_prod(*[torch.arange(5.0) * 12] * 3)
    found = power(circuit(centers[None].double(), cutoff=5.0, solvent=0.01, alpha=3.0))
    assert torch.allclose(found, torch.full((1, 3), 0.01 * BOX**3 + 125 * 3.0, dtype=torch.float64), rtol=1e-9)


def cloud(B=2, N=12):
    return torch.rand(B, N, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * BOX


def test_gradients_are_those_of_finite_differences():
    base = circuit(cloud(), cutoff=25.0, orders=(0.3, 0.1, 0.05), coupling=3.0, solvent=0.01, alpha=5.0)
    for name in ("conductance", "spread", "orders", "coupling", "polarizability", "solvent"):
        value = getattr(base, name).clone().requires_grad_()
        power(dataclasses.replace(base, **{name: value})).sum().backward()
        at = value.grad.abs().argmax()
        ends = []
        for side in (1, -1):
            moved = value.detach().clone()
            moved.view(-1)[at] *= 1 + side * 1e-4
            ends.append(float(power(dataclasses.replace(base, **{name: moved})).sum()))
        step = 2e-4 * float(value.detach().view(-1)[at])
        # Central differences over 1e-4 of a smooth function: 1e-8 of it, and the ground 1e-9; 1e-6 leaves room.
        assert (ends[0] - ends[1]) / step == pytest.approx(float(value.grad.view(-1)[at]), rel=1e-6), name


def test_power_does_not_depend_on_shift_order_or_batch():
    x = cloud()
    options = {"cutoff": 25.0, "orders": (0.3, 0.1, 0.05), "coupling": 3.0, "solvent": 0.01, "alpha": 5.0}
    found = power(circuit(x, **options))
    # Vectors are float32: 1e-7 of each.
    assert torch.allclose(power(circuit((x + 7.3) % BOX, **options)), found, rtol=1e-5)
    assert torch.allclose(power(circuit(x.flip(1), **options)), found, rtol=1e-5)
    assert torch.allclose(power(circuit(x[1:], **options)), found[1:], rtol=1e-9)
    turned = power(circuit(x[..., [1, 2, 0]], **options))
    assert torch.allclose(turned, found[:, [1, 2, 0]], rtol=1e-5)
    assert float((found[:, 0] / found[:, 1] - 1).abs().max()) > 1e-2  # or the line above says nothing


def test_plane_waves_are_one_of_each_pair_and_scale_with_the_cell():
    k = wave_vectors(BOX, 2 * math.pi * 2.01 / BOX)
    waves, slopes, squares = plane_waves(cloud(), k, radius=1e-6)
    # |n|² = 1, 2, 3, 4: 6 + 12 + 8 + 6 wave vectors, a cosine and a sine a pair.
    assert waves.shape == (2, 12, 32)
    assert torch.allclose(waves.square().sum(-1), torch.full((2, 12), 32.0, dtype=torch.float64))
    assert sorted({round(float(k) * (BOX / 2 / math.pi) ** 2) for k in squares}) == [1, 2, 3, 4]
    moved = plane_waves(cloud() + torch.tensor([0, 1e-5, 0]), k, radius=1e-6)[0]
    assert torch.allclose((moved - waves) / 1e-5, slopes[:, :, 1], atol=1e-5)  # one-sided: 1e-5 k² / 2 = 2e-7
    # Twice the cell has eight times as many waves within the same reach, up to its surface.
    assert plane_waves(cloud(), wave_vectors(2 * BOX, 2 * math.pi * 2.01 / BOX), radius=1.0)[0].shape[-1] > 5 * 32


def test_shapes_that_do_not_fit():
    base = circuit(cloud(), cutoff=25.0)
    with pytest.raises(ValueError, match=r"slots \[B, N, K\]"):
        power(dataclasses.replace(base, conductance=base.conductance[:, 1:]))


@pytest.mark.parametrize("upper", [False, True])
def test_large_triangles_go_in_halves_on_a_gpu(upper, monkeypatch):
    monkeypatch.setattr(kirchhoff, "_HALVED", 5)
    draw = torch.Generator().manual_seed(0)
    lower = torch.rand(3, 23, 23, generator=draw, dtype=torch.float64).tril() + 3 * torch.eye(23, dtype=torch.float64)
    right = torch.rand(3, 23, 4, generator=draw, dtype=torch.float64)
    factor = lower.mT if upper else lower
    with rehearse():
        found = kirchhoff._substitute(factor.to("cuda"), right.to("cuda"), upper=upper).cpu()
    assert torch.allclose(factor @ found, right, rtol=0, atol=1e-14)  # some twenty roundings of 1e-16


def test_a_circuit_without_a_solution_is_no_number_and_an_error_on_a_cpu():
    matrix = torch.eye(4).repeat(2, 1, 1)
    matrix[1, 2, 2] = -1
    factor = kirchhoff._cholesky(matrix)
    assert torch.equal(factor[0], torch.eye(4))
    assert bool(factor[1].isnan().all())
    net = gpuion.load_surrogate()
    centers = gpuion.place("random", n_structures=1, n_particles=12, box=50.0, diameter=9.6024)
    given = net.prepare(centers, 50.0, 9.6024)
    with torch.no_grad():
        net.orders.fill_(math.nan)
        with pytest.raises(torch.linalg.LinAlgError, match="no solution"):
            net(*given)
