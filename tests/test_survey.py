"""Pictures and tables of a data set."""

import dataclasses
import sys

import numpy as np
import pytest
import torch

import gpuion
from gpuion import survey
from gpuion.dataset import write_shard, write_summary
from gpuion.errors import DatasetError

pytest.importorskip("matplotlib")
BOX = 40.0


def make(n=9, sites=1, seed=0, power=1):
    """Return structures of all kinds, one kind of them once, with labels made up from their ids, as a power of them."""
    centers = gpuion.place("random", n_structures=n, n_particles=6, box=BOX, diameter=8.0, seed=seed)
    ids, nan = torch.arange(n), float("nan")
    kinds = np.array(["random", "chained", "gapped"])[np.arange(n) % 3]
    kinds[-1] = "chained"
    chained, gapped = torch.from_numpy(kinds == "chained"), torch.from_numpy(kinds == "gapped")
    distance = torch.where(chained[:, None], torch.tensor([9.0, 12.0]), torch.tensor([nan, nan])).double()
    distance[-1] = torch.tensor([12.0, 16.0])
    D = (0.01 * (ids + 1.0)[:, None] ** power * torch.tensor([1.0, 1.1, 1.2]) * (1 + 0.05 * (sites - 1))).double()
    return gpuion.Dataset(
        centers=centers, diffusivity=D, standard_error=1e-4 * D, id=ids, family=kinds, distance=distance,
        gap=torch.where(gapped, 5.0, nan).double(), axes=gapped[:, None] & torch.tensor([True, False, False]),
        box=BOX, diameter=8.0, sites_per_voxel=sites, method="exact",
    )  # fmt: skip


def save(folder, data):
    folder.mkdir()
    write_shard(folder / "shard-00000.h5", data, seed=0)
    write_summary(folder, data)
    return folder


def walked(data, settled):
    z = torch.linspace(-2, 2, 3 * len(data)).double().view(-1, 3)
    error = 0.05 * data.diffusivity
    return dataclasses.replace(
        data, method="both", diffusivity_kmc=data.diffusivity + z * error, standard_error_kmc=error,
        converged_kmc=torch.full((len(data),), settled),
    )  # fmt: skip


@pytest.mark.parametrize("settled", [True, False])
def test_a_survey_draws_all_and_counts_right(tmp_path, monkeypatch, capsys, settled):
    data = make()
    folders = [save(tmp_path / "data", data), save(tmp_path / "fine", make(sites=2).subset(slice(0, 5)))]
    folders.append(save(tmp_path / "walks", walked(data, settled)))
    out = tmp_path / "out"
    flags = [folders[0], "--finer", folders[1], "--walks", folders[2], "--out", out]
    monkeypatch.setattr(sys, "argv", ["survey", *map(str, flags)])
    g, calls = survey.pair_distribution, []
    monkeypatch.setattr(survey, "pair_distribution", lambda *a, **k: calls.append(a) or g(*a, **k))
    survey.main()
    assert len(calls) == 1  # of 8192 structures it takes seconds
    assert "5 pictures" in capsys.readouterr().out
    names = {"families", "ranges", "pairs", "lattice", "walks"}
    assert {path.name for path in out.iterdir()} == {"survey.md", *(f"{name}.png" for name in names)}
    for name in names:
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    text = (out / "survey.md").read_text()
    assert "| chained, 12 to 16 | 1 | 0.0990 | 0.0990 |" in text
    assert "| gapped on 1, plain | 2 |" in text
    assert "| 2 | all | 5 | +5.0 | +5.0 | +5.0 | 1.0000 |" in text
    assert ("| 9 | 9 | 27 |" in text) is settled
    assert ("| 9 | 0 | 0 | – | – | – |" in text) is not settled


def test_the_tables_of_uneven_data_are_those_by_hand(tmp_path):
    data = make(power=3)
    survey.write(save(tmp_path / "data", data), [], None, tmp_path / "out")
    text = (tmp_path / "out" / "survey.md").read_text()
    # 0.011 of 1, 64 and 343; their mean is 136. D of one structure is its own lowest, median, mean and highest.
    assert "| random | 3 | 0.0110 | 0.7040 | 1.4960 | 3.7730 |" in text
    assert "| chained, 12 to 16 | 1 | 8.0190 | 8.0190 | 8.0190 | 8.0190 |" in text
    D = data.mean_diffusivity.numpy()
    near = gpuion.describe(data.centers, box=BOX, cutoff=survey.touching(data)).nearest.numpy()
    straight, ranked = np.corrcoef(near, D)[0, 1], np.corrcoef(near.argsort().argsort(), D.argsort().argsort())[0, 1]
    assert abs(straight - ranked) > 0.002  # or the columns could not be told apart
    assert f"| mean nearest distance | {straight:+.3f} | {ranked:+.3f} |" in text


def test_pairs_are_averaged_over_families_and_over_the_right_ends():
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    data = make(20).subset(order)  # D rises with the id, not with the position
    radii, found = survey._pairs(data, data.id[:, None].double() * torch.tensor([1.0, -2.0]))
    assert radii.tolist() == [0, 1]
    ids = {name: data.id[torch.from_numpy(data.family == name)].double().mean() for name in set(data.family)}
    expected = {"lowest tenth of D": 0.5, "highest tenth of D": 18.5} | ids
    assert {name: values.tolist() for name, values in found.items()} == {
        name: pytest.approx([float(mean), -2 * float(mean)]) for name, mean in expected.items()
    }


def test_changes_on_a_finer_lattice_are_those_by_hand(tmp_path):
    coarse, fine = make(), make(sites=2)
    # In per cent, of ids 0 to 8; the third random one falls below the second, which was lower.
    change = torch.tensor([1.0, 2.0, -3.0, 6.0, 1.0, 5.0, -50.0, 0.0, 9.0]).double()
    fine = dataclasses.replace(fine, diffusivity=coarse.diffusivity * (1 + change / 100)[:, None])
    found = survey.compare(coarse, fine, tmp_path)
    rows = {row[1]: row for row in found["rows"]}
    assert found["change"] == pytest.approx(change.numpy(), abs=1e-12)  # a few roundings of some 10
    assert rows["random"] == ["2", "random", "3", "-14.3", "-50.0", "+6.0", "0.5000"]  # ranks 1 2 3 and 1 3 2
    assert rows["gapped"] == ["2", "gapped", "2", "+1.0", "-3.0", "+5.0", "nan"]
    assert rows["chained"] == ["2", "chained", "4", "+3.0", "+0.0", "+9.0", "1.0000"]


def test_equal_data_give_equal_pictures(tmp_path):
    folder = save(tmp_path / "data", make())
    for name in ("a", "b"):
        survey.write(folder, [], None, tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_what_does_not_belong_together_is_named(tmp_path):
    data = save(tmp_path / "data", make())
    others = save(tmp_path / "others", make(seed=1, sites=2))
    with pytest.raises(
        DatasetError, match=r"others: expected structures of the first data set, .* ids \[0, 1, 2, 3, 4\]"
    ):
        survey.write(data, [others], None, tmp_path / "out")
    with pytest.raises(DatasetError, match="data: expected walks beside exact labels, found none"):
        survey.write(data, [], data, tmp_path / "out")


def test_a_family_alone_is_enough(tmp_path):
    data = make()
    some = data.subset(torch.from_numpy(data.family == "random"))
    survey.write(save(tmp_path / "data", some), [], None, tmp_path / "out")
    assert "| random | 3 |" in (tmp_path / "out" / "survey.md").read_text()
