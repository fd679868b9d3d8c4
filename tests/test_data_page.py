"""What docs/data.md says of the data sets that come with gpuion is what they hold, by the survey's own code."""

import re
from pathlib import Path

import pytest

import gpuion
from gpuion import survey
from gpuion.findings import agreement

ROOT = Path(__file__).parent.parent
DATA = ROOT / "data"


@pytest.fixture(scope="module")
def study():
    return gpuion.open_dataset(DATA / "study")


@pytest.fixture(scope="module")
def page():
    return (ROOT / "docs" / "data.md").read_text()


def test_the_table_of_kinds_is_of_the_study(study, page):
    D = study.mean_diffusivity.numpy()
    rows = survey._spans({name: D[at.numpy()] for name, at in survey.by_kind(study).items()})
    assert len(rows) == 14
    assert survey.table(["structures", "number", "lowest", "median", "mean", "highest D"], rows) in page


@pytest.mark.slow
def test_the_table_of_what_goes_with_diffusivity_is_of_the_study(study, page):
    rows = survey._what_goes_with(study, gpuion.pair_distribution(study.centers, box=study.box))
    assert len(rows) == 7
    assert survey.table(("of a structure", "Pearson's R with D", "Spearman's"), rows) in page


def test_the_table_of_lattices_is_of_the_finer_sets(study, page):
    folders = [DATA / f"study-{sites}" for sites in (2, 3, 5)]
    rows = [row for path in folders for row in survey.compare(study, gpuion.open_dataset(path), path)["rows"]]
    assert len(rows) == 12
    assert survey.table(survey.LATTICE, rows).replace("| nan |", "| |") in page  # one structure has no ranks


def test_the_spans_of_other_loadings_are_theirs(study, page):
    source = study.subset(study.part == "test").subset(slice(400))
    # Low and high of each, as many digits as the page gives; the medians of 400 lie between two of them.
    parts = [(gpuion.open_dataset(DATA / "phi-0.05"), 4, 3), (gpuion.open_dataset(DATA / "phi-0.15"), 3, 3)]
    words = []
    for data, low, high in [*parts, (source, 3, 3)]:
        D = data.mean_diffusivity
        words.append(f"{float(D.min()):.{low}f} to {float(D.max()):.{high}f} (median {float(D.quantile(0.5)):.3f})")
    said = " ".join(page.split())
    assert f"`data/phi-0.05` have D from {words[0]}, those of `data/phi-0.15` from {words[1]}" in said
    assert f"at φ = 0.1 have {words[2]}" in said


def test_the_walks_are_as_far_from_the_solves_as_it_says(page):
    walks = gpuion.open_dataset(DATA / "study-walks")
    found, sure = agreement(walks), walks.converged_kmc
    z = f"root mean square of {found['z_rms']:.2f} and a mean of {found['z_mean']:+.1f}"
    high = 100 * (walks.diffusivity_kmc.mean(1) / walks.diffusivity.mean(1) - 1)[sure]
    said = " ".join(page.split())
    assert re.search(rf"Of {found['structures']} walks .*?, {found['settled']} settled", said)
    assert f"{found['components']} components of the settled ones {found['within_2']} lie within two" in said
    assert f"none beyond {found['z_max']:.2f}; the standard error is 4% on average. z has a {z}:" in said
    assert round(100 * float((walks.standard_error_kmc / walks.diffusivity_kmc)[sure].mean())) == 4
    assert f"walks read {float(high.mean()):.1f} ± {float(high.std()) / len(high) ** 0.5:.1f}% high on the mean" in said
