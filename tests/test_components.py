import numpy as np
import pytest
import torch

from gpuion.components import correlation, principal_components


def rows(seed, n, K):
    """Rows of columns on several scales, correlated."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, K, generator=generator, dtype=torch.float64)
    return x @ torch.randn(K, K, generator=generator, dtype=torch.float64) + torch.arange(K) * 3.0


@pytest.mark.parametrize(("n", "K"), [(40, 6), (6, 40), (2, 3), (5, 1), (300, 39)])
def test_components_are_the_eigenvectors_of_the_covariance(n, K):
    x = rows(n, n, K)
    found = principal_components(x)
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(x.numpy(), rowvar=False)))
    C = min(n - 1, K)
    assert found.components.shape == (C, K)
    # Backward errors of eigh and svd, some n K 2⁻⁵³ of the largest eigenvalue, 2e-12 at 300 × 39; the smallest gap of
    # two eigenvalues, some 1e-3 of the largest here, divides that for the vectors.
    shares = values[::-1][:C] / values.sum()
    np.testing.assert_allclose(found.share, shares, rtol=0, atol=1e-12)
    for c in range(C):
        assert abs(float(found.components[c] @ torch.from_numpy(vectors[:, ::-1][:, c].copy()))) > 1 - 1e-9
    torch.testing.assert_close(found.components @ found.components.T, torch.eye(C).double(), rtol=0, atol=1e-13)
    torch.testing.assert_close(found.mean + found.scores @ found.components, x, rtol=0, atol=1e-10)
    assert float(found.share.sum()) == pytest.approx(1, abs=1e-14)


def test_signs_do_not_depend_on_order_or_sign_of_the_rows():
    x = rows(1, 30, 7)
    found = principal_components(x)
    top = found.components.abs().argmax(1)
    assert bool((found.components[torch.arange(7), top] > 0).all())
    for other in (x.flip(0), -x, x.float().double() + 100.0):
        # x is rounded to float32 in the last: 2⁻²⁴ of 20 over gaps of 1e-3 of the largest variance.
        torch.testing.assert_close(principal_components(other).components, found.components, rtol=0, atol=1e-3)


def test_other_rows_are_projected_along_the_same_components():
    x = rows(2, 30, 7)
    found = principal_components(x)
    torch.testing.assert_close(found.project(x), found.scores, rtol=0, atol=1e-12)  # 7 products of up to 100: 1e-13
    torch.testing.assert_close(found.project(found.mean[None]), torch.zeros(1, 7).double(), rtol=0, atol=1e-13)
    torch.testing.assert_close(
        found.project(found.mean + 2 * found.components[:1]), 2 * torch.eye(7).double()[:1], rtol=0, atol=1e-13
    )
    with pytest.raises(ValueError, match="7 columns"):
        found.project(x[:, :6])


def test_columns_that_do_not_vary_have_no_weight():
    x = rows(3, 30, 5)
    wide = torch.cat([torch.full((30, 2), 0.1).double(), x, x[:, :1] * 2], 1)  # two constant ones, one dependent
    found = principal_components(wide)
    assert found.components.shape == (5, 8)
    # A constant column is exactly 0; so are its weights up to the rotations of the svd, some 8 · 2⁻⁵³.
    assert float(found.components[:, :2].abs().max()) < 1e-14


def test_rows_that_are_all_the_same_are_refused_though_their_mean_is_rounded():
    for n in range(2, 40):
        with pytest.raises(ValueError, match=f"all {n} rows are the same"):
            principal_components(torch.full((n, 2), 0.1, dtype=torch.float64))


def test_pearson_is_numpys():
    a, b = rows(4, 50, 6), rows(5, 50, 1)[:, 0]
    expected = [np.corrcoef(a[:, k].numpy(), b.numpy())[0, 1] for k in range(6)]
    np.testing.assert_allclose(correlation(a, b), expected, rtol=0, atol=1e-14)  # sums of 50 products: 50 · 2⁻⁵³
    assert float(correlation(a[:, 2], b)) == pytest.approx(expected[2], abs=1e-14)
    assert correlation(a[:, 2], b).shape == ()
    assert float(correlation(1e200 * b, b)) == pytest.approx(1, abs=1e-14)
    assert float(correlation(-1e-200 * b, b)) == pytest.approx(-1, abs=1e-14)


def test_spearman_compares_ranks_and_shares_those_of_equals():
    b = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    assert float(correlation(b.exp(), b, ranks=True)) == pytest.approx(1, abs=1e-15)
    assert float(correlation(b.exp(), b)) < 0.9
    # Ranks 1½, 1½, 3, 4½, 4½ against 1 … 5: Σ = 9 over √(9 · 10).
    tied = torch.tensor([[7.0], [7.0], [8.0], [9.0], [9.0]])
    assert float(correlation(tied, b, ranks=True)[0]) == pytest.approx(9 / 90**0.5, abs=1e-15)


@pytest.mark.parametrize("seed", range(4))
def test_both_are_scipys(seed):
    stats = pytest.importorskip("scipy.stats")
    a, b = rows(seed, 60, 4), rows(seed + 10, 60, 1)[:, 0]
    a[:, 1:] = a[:, 1:].round()  # many ties
    b = b.round(decimals=1)
    for k in range(4):
        for ranks, theirs in ((False, stats.pearsonr), (True, stats.spearmanr)):
            # Sums of 60 products, in another order: 60 · 2⁻⁵³ < 1e-14.
            expected = theirs(a[:, k].numpy(), b.numpy()).statistic
            assert float(correlation(a, b, ranks=ranks)[k]) == pytest.approx(expected, abs=1e-14)


def test_a_constant_column_has_no_correlation():
    a = torch.full((5, 2), 0.1)
    a[:, 1] = torch.arange(5)
    for ranks in (False, True):
        found = correlation(a, torch.arange(5.0), ranks=ranks)
        assert bool(found[0].isnan())
        assert float(found[1]) == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.zeros(3), r"\[n, K\]"),
        (torch.zeros(0, 3), r"\[n, K\]"),
        (torch.zeros(1, 3), "two rows"),
        (torch.full((4, 3), 0.1), "all 4 rows are the same"),
        (torch.tensor([[0.0, 1.0], [torch.nan, 1.0]]), r"nan at \[1, 0\]"),
    ],
)
def test_what_has_no_components_is_refused(x, words):
    with pytest.raises(ValueError, match=words):
        principal_components(x)


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (torch.rand(4, 2), torch.rand(3), r"\[4, 2\] and \[3\]"),
        (torch.rand(1, 2), torch.rand(1), "n ≥ 2"),
        (torch.rand(4, 2), torch.rand(4, 1), r"\[4, 2\] and \[4, 1\]"),
        (torch.rand(4, 2), torch.full((4,), 0.25), "b is 0.25 in all 4 rows"),
        (torch.rand(4, 2), torch.tensor([0.0, 1.0, torch.inf, 2.0]), "b must be numbers within"),
        (torch.full((4, 1), torch.nan), torch.rand(4), "a must be numbers within"),
        (torch.full((4, 1), -1e308, dtype=torch.float64), torch.rand(4), r"got -1e\+308 at \[0, 0\]"),
    ],
)
def test_what_cannot_be_correlated_is_refused(a, b, words):
    with pytest.raises(ValueError, match=words):
        correlation(a, b)
