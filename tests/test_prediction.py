"""D* and its spread from Python: the same bits alone and in a batch, ensembles, and how sure they are."""

import json
import math

import pytest
import torch
from test_models import ALONE, BOX, DIAMETER, ON_CENTERS, folder, model, placed, samples
from test_train_script import script

import gpuion
from gpuion import checks, files, fitting, scoring, training
from gpuion.doubt import Doubt, reach

pytestmark = pytest.mark.usefixtures("single_thread")

CELL = {"box": BOX, "diameter": DIAMETER}


def certain(name):
    """Return a model that has learnt how sure it is, from five structures each."""
    net, data = model(name), samples(10)
    first, second = (
        training.Samples(**{**vars(data), **cut}) for cut in (part(data, slice(0, 5)), part(data, slice(5, 10)))
    )
    fitting.doubt(net, {"train": first, "validation": second}, ALONE)
    return net


def part(data, at):
    """Return some of the samples' fields."""
    return {name: getattr(data, name)[at] for name in ("centers", "target", "id", "axes")}


def every():
    """Return a model of each kind, trained or not."""
    torch.manual_seed(0)
    image = gpuion.Surrogate(widths=(4, 4), hidden=4)
    return [image, *map(certain, ON_CENTERS)]


@pytest.mark.parametrize("net", every(), ids=["periodic", *ON_CENTERS])
def test_a_structure_has_the_same_bits_alone_and_in_a_batch(net):
    x = placed(5)
    together = net.predict(x, **CELL, batch=2)
    for k in range(5):
        alone = net.predict(x[k : k + 1], **CELL, batch=2)
        assert torch.equal(alone.d_star, together.d_star[k : k + 1])
        assert torch.equal(alone.spread.nan_to_num(-1), together.spread[k : k + 1].nan_to_num(-1))
    assert float(together.d_star.std()) > 1e-6
    assert together.d_star.shape == together.spread.shape == (5,)
    assert bool(together.spread.isnan().all()) == isinstance(net, gpuion.Surrogate)
    assert (together.d_star_axes is None) != getattr(net, "per_axis", False)
    # What annealing goes by.
    like = gpuion.Dataset(
        centers=x, diffusivity=torch.ones(5, 3), standard_error=torch.ones(5, 3), id=torch.arange(5), family=None,
        distance=torch.ones(5, 2), gap=torch.ones(5), axes=torch.ones(5, 3), sites_per_voxel=1, method="exact", **CELL,
    )  # fmt: skip
    if isinstance(net, gpuion.Surrogate):
        net.meta = {"voxels": 50, "box": 50.0}
    assert torch.equal(scoring.surrogate_score(net, like, 2)(x).double(), together.d_star)


def test_images_have_the_models_voxels_and_a_default_of_one_a_unit():
    torch.manual_seed(0)
    net, x = gpuion.Surrogate(widths=(4, 4), hidden=4).double(), placed(2).double()
    torch.nn.init.ones_(net.hidden.bias)
    fine = gpuion.voxelize(x, box=BOX, diameter=DIAMETER, voxels=100)
    plain = gpuion.voxelize(x, box=BOX, diameter=DIAMETER, voxels=50)
    with torch.no_grad():
        # The same sums in a batch of another size, in float64.
        assert torch.allclose(net.eval().predict(x, **CELL).d_star, net(plain.double()), rtol=1e-12)
        net.meta = {"voxels": 150, "box": 75.0}
        assert torch.allclose(net.predict(x, **CELL).d_star, net(fine.double()), rtol=1e-12)
        assert not torch.allclose(net(plain.double()), net(fine.double()), rtol=1e-6)


def test_bad_structures_are_refused():
    net, x = model("nearest"), placed(2)
    with pytest.raises(ValueError, match="batch must be a whole number, 1 or more"):
        net.predict(x, **CELL, batch=0)
    with pytest.raises(ValueError, match="shape"):
        net.predict(x[:, 0], **CELL)
    with pytest.raises(ValueError, match="shape"):
        net.predict(x[0], **CELL)
    with pytest.raises(ValueError, match="coverage must lie between 0 and 1"):
        net.predict(x, **CELL).interval(1.0)


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        ({"diameter": 9.7}, r"learnt from spheres of diameter 9\.602432 and cannot know what another does, got 9\.7"),
        ({"diameter": 3.0}, "got 3; train one on such spheres, or solve with homogenize"),
        ({"N": 3, "box": 150.0}, r"knows 182 to 1820 spheres in a cell of 150 voxels .* from 91 in 75\), got 3;"),
        ({"N": 240}, r"knows 22\.75 to 227\.5 spheres in a cell of 75 voxels"),
        ({"box": 30.0, "N": 6}, "box must be 33 or more, got 30"),
        ({"box": 400.0, "N": 13804}, "box must be 300 voxels or less, got 400"),
        ({"box": 2000.0, "N": 1}, "spheres in a cell of 2000 voxels"),
        ({"N": 91, "scale": 3}, "got 28.8"),
        ({}, r"structure 0: spheres \d+ and \d+ of diameter 9\.602432 are \d\.\d+ apart"),
    ],
)
def test_the_network_that_ships_refuses_what_it_cannot_know(structure, message):
    net, given = gpuion.load_surrogate(), {"box": 75.0, "diameter": 9.602432401, "N": 91, "scale": 1, **structure}
    box, diameter = given["box"] * given["scale"], given["diameter"] * given["scale"]
    with pytest.raises(ValueError, match=message):
        net.predict(torch.rand(1, given["N"], 3) * box, box=box, diameter=diameter)


def test_cells_of_which_the_documents_speak_are_taken():
    net = gpuion.load_surrogate()
    for n, box in ((46, 75.0), (137, 75.0), (27, 50.0)):
        diameter = gpuion.sphere_diameter(27, 50.0, 0.1) if box == 50.0 else net.meta["diameter"]
        x = gpuion.place("random", n_structures=1, n_particles=n, box=box, diameter=diameter, seed=1)
        assert 0.05 < float(net.predict(x, box=box, diameter=diameter).d_star) < 1.0
    with pytest.raises(ValueError, match="learnt from spheres"):
        net.predict(x[:, :5], box=box, diameter=8.0)
    net.is_forced = True  # as with --force
    assert float(net.predict(x[:, :5], box=box, diameter=8.0).d_star) > 0


def test_more_than_there_is_memory_for_is_refused_before_work(monkeypatch):
    net = gpuion.load_surrogate()
    cell = {"box": 75.0, "diameter": net.meta["diameter"]}
    x = gpuion.place("random", n_structures=1, n_particles=91, **cell)
    real = checks.os.sysconf
    for pages, message in ((300, r"1 circuits of 91 spheres in 75 voxels would take"),
                           (600, r"the network of \d+ contacts of a structure would take")):  # fmt: skip
        monkeypatch.setattr(checks.os, "sysconf", lambda name, n=pages: n if name == "SC_PHYS_PAGES" else real(name))
        net.is_forced = pages == 600  # to be asked for thousands of contacts, a third as far apart
        with pytest.raises(ValueError, match=message):
            net.predict(x / 3 if net.is_forced else x, **cell)
    monkeypatch.undo()
    assert float(net.predict(x, **cell).d_star) > 0


def test_images_of_other_spheres_are_refused():
    net, x = gpuion.Surrogate(widths=(4, 4), hidden=4), placed(1)
    net.meta = {"voxels": 50, "box": 50.0, "diameter": DIAMETER}
    assert float(net.predict(x, **CELL).d_star) > 0
    with pytest.raises(ValueError, match=r"learnt from spheres of diameter 9\.6"):
        net.predict(x, box=BOX, diameter=DIAMETER / 2)
    with pytest.raises(ValueError, match="is not a whole number"):
        net.predict(x, box=BOX + 0.3, diameter=DIAMETER)


@pytest.mark.parametrize("net", every(), ids=["periodic", *ON_CENTERS])
def test_nothing_is_predicted_of_nothing(net):
    one, none = net.predict(placed(1), **CELL), net.predict(placed(1)[:0], **CELL)
    for name, x in vars(one).items():
        empty = getattr(none, name)
        assert (empty is None) == (x is None)
        if name != "quantiles" and x is not None:
            assert (empty.shape, empty.dtype) == ((0, *x.shape[1:]), x.dtype)
    low, high = none.interval(0.9)
    assert len(low) == len(high) == 0


def test_distance_is_mahalanobis():
    draw = torch.Generator().manual_seed(0)
    mix = torch.randn(3, 3, generator=draw, dtype=torch.float64)
    x = torch.randn(500, 3, generator=draw, dtype=torch.float64) @ mix + 2
    doubt = Doubt(3).double()
    assert bool(doubt(x).isnan().all())
    doubt.measure(x)
    z = (x - x.mean(0)) / (x.std(0, correction=0) + 1e-3)
    covariance = z.mT @ z / 500 + 0.1 * torch.eye(3, dtype=torch.float64)
    expected = (1 + ((z @ torch.linalg.inv(covariance)) * z).sum(1)).sqrt()
    assert torch.allclose(doubt.distance(x), expected, rtol=1e-9)
    far = doubt.distance(torch.stack([x.mean(0), x.mean(0) + 10 * mix[0], x.mean(0) + 20 * mix[0]]))
    assert float(far[0]) == pytest.approx(1.0)
    assert float(far[2] / far[1]) == pytest.approx(2.0, rel=0.02)  # the 1 counts less and less


def test_intervals_hold_as_many_as_they_say():
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(9000, 5, generator=draw)
    doubt = Doubt(5)
    doubt.measure(x[:1000])
    # Errors of heavy tails, Student's t of three degrees of freedom, that grow with the distance.
    t = torch.randn(9000, generator=draw) / (torch.randn(3, 9000, generator=draw).square().mean(0)).sqrt()
    error = 0.01 * t * doubt.distance(x)
    doubt.calibrate(x[1000:5000], error[1000:5000])
    held = x[5000:]
    for coverage in (0.05, 0.68, 0.685, 0.95):
        inside = (error[5000:].abs() <= reach(doubt.quantiles, coverage) * doubt(held)).double().mean()
        # Binomial of 4000 structures, twice, since the quantile is of as many: three sigma.
        assert float(inside) == pytest.approx(coverage, abs=3 * math.sqrt(2 * coverage * (1 - coverage) / 4000))
    z = error[1000:5000] / doubt(x[1000:5000])
    assert float(z.square().mean()) == pytest.approx(1.0, rel=1e-4)
    assert bool((doubt.quantiles.diff() >= 0).all())
    found = gpuion.Prediction(d_star=torch.ones(4000).double(), spread=doubt(held).double(), quantiles=doubt.quantiles)
    low, high = found.interval(0.95)
    truth = error[5000:].double().exp()
    assert float(((low <= truth) & (truth <= high)).double().mean()) == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize("name", ["nearest", "graph", "network"])
def test_doubt_grows_off_the_training_data(name):
    net = certain(name)
    near = net.predict(samples(10).centers, **CELL).spread
    thin = net.predict(placed(4, N=5), **CELL).spread
    assert float(thin.mean()) > 1.5 * float(near.mean())


def test_a_checkpoint_of_before_there_was_doubt_has_none(tmp_path):
    net, x = certain("network"), placed(2)
    training.save_checkpoint(tmp_path / "s.pt", net, {})
    assert torch.equal(
        gpuion.load_surrogate(tmp_path / "s.pt").predict(x, **CELL).spread, net.predict(x, **CELL).spread
    )
    content = training.load_checkpoint(tmp_path / "s.pt")
    content["weights"] = {k: v for k, v in content["weights"].items() if not k.startswith("doubt.")}
    files.save_tensors(tmp_path / "old.pt", content)
    old = gpuion.load_surrogate(tmp_path / "old.pt")
    assert torch.equal(old.predict(x, **CELL).d_star, net.predict(x, **CELL).d_star)
    assert bool(old.predict(x, **CELL).spread.isnan().all())


def test_the_script_says_how_sure_it_is(tmp_path, capsys):
    data = folder(tmp_path / "data", 40)
    for name in ("network", "periodic"):
        script("--data", data, "--model", name, "--out", tmp_path / name, "--epochs", 1)
    first, second = capsys.readouterr().out.split("network in")[:2]
    assert "in 95%" in first
    assert "in 95%" not in second
    sure, unsure = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("network", "periodic"))
    assert set(sure["test"]) - set(unsure["test"]) == {"coverage_68", "coverage_95", "spread", "error"}
    assert 0 <= sure["test"]["coverage_68"] <= sure["test"]["coverage_95"] <= 1
    assert sure["validation"]["spread"] > 0
    # Seven of the eight on which the intervals are fixed are within 95% of their own.
    assert sure["validation"]["coverage_95"] == 7 / 8
    rows = json.loads((tmp_path / "network" / "predictions.json").read_text())
    net, like = gpuion.load_surrogate(tmp_path / "network" / "surrogate.pt"), gpuion.open_dataset(data)
    at = [like.id.tolist().index(i) for i in rows["id"]]
    found = net.predict(like.centers[at], **CELL)
    # Float32 in batches of another size.
    assert rows["predicted"] == pytest.approx(found.d_star.tolist(), rel=1e-5)
    assert rows["spread"] == pytest.approx(found.spread.tolist(), rel=1e-3)
    assert len(net.meta["data"]) == 64


def test_two_ranks_are_as_sure_as_one(tmp_path):
    data = folder(tmp_path / "data", 40)
    flags = ["--data", data, "--model", "nearest", "--epochs", 1, "--out"]
    for ranks in (1, 2):
        script(*flags, tmp_path / str(ranks), ranks=ranks)
    one, two = (json.loads((tmp_path / str(ranks) / "metrics.json").read_text()) for ranks in (1, 2))
    # One epoch's steps of rounded gradients; the distances are of descriptors, which have no weights.
    for part in one:
        assert two[part]["spread"] == pytest.approx(one[part]["spread"], rel=1e-2)
        assert two[part]["coverage_68"] == pytest.approx(one[part]["coverage_68"], abs=0.2)
