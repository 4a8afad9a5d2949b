"""kdib.properties.similarity, with dissimilarities and moments: against rsatoolbox, scipy, definitions, invariances."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdib.properties import dissimilarities
from kdib.properties.dissimilarities import dissimilarity, rsa, second_order, second_orders, unbiased_ckas
from kdib.properties.moments import cka, hsic, merge, moments
from kdib.properties.similarity import linear_cka, linear_kernel, procrustes, rbf_cka

MEASURES = {
    "biased": linear_cka,
    "unbiased": lambda x, y: linear_cka(x, y, unbiased=True),
    "rbf": rbf_cka,
    "rsa": rsa,
    "procrustes": procrustes,
}


@pytest.fixture
def activations():
    """Two related representations [40, 6] and [40, 9], off the origin."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=(40, 6))
    return common + 3, np.concatenate([common, rng.normal(size=(40, 3))], axis=1) @ rng.normal(size=(9, 9)) - 1


def rotation(size, seed=1):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]


def song(x, y):
    """The unbiased HSIC, literally: Song et al. (2012)."""
    k, l_ = (values @ values.T for values in (x, y))
    for kernel in (k, l_):
        np.fill_diagonal(kernel, 0)
    n, one = len(k), np.ones(len(k))
    trace = np.trace(k @ l_) + (one @ k @ one) * (one @ l_ @ one) / ((n - 1) * (n - 2))
    return (trace - 2 / (n - 2) * (one @ k @ l_ @ one)) / (n * (n - 3))


# ------------------------------------------------------------------------------------------- reference packages


@pytest.fixture(scope="module")
def rsatoolbox():
    return pytest.importorskip("rsatoolbox", reason="parity with rsatoolbox needs it: pip install rsatoolbox")


def rdms(rsatoolbox, x, method):
    return rsatoolbox.rdm.calc_rdm(rsatoolbox.data.Dataset(x), method=method)


def test_dissimilarities_are_rsatoolboxs(rsatoolbox, activations):
    x, _ = activations
    theirs = rdms(rsatoolbox, x, "correlation").get_matrices()[0]
    np.testing.assert_allclose(dissimilarity(x, metric="correlation"), theirs, atol=1e-12)
    theirs = rdms(rsatoolbox, x, "euclidean").get_matrices()[0]  # squared, and divided by the number of features
    np.testing.assert_allclose(dissimilarity(x, metric="euclidean") ** 2 / 6, theirs, atol=1e-12)


@pytest.mark.parametrize(("ours", "theirs"), [("cosine", "cosine"), ("pearson", "corr"), ("spearman", "spearman")])
def test_second_order_is_rsatoolboxs(rsatoolbox, activations, ours, theirs):
    pair = [rdms(rsatoolbox, values, "correlation") for values in activations]
    expected = rsatoolbox.rdm.compare(*pair, method=theirs).item()
    mine = [dissimilarity(values, metric="correlation") for values in activations]
    assert second_order(*mine, method=ours) == pytest.approx(expected, abs=1e-9)


def test_linear_cka_is_rsatoolboxs_whitened_cosine(rsatoolbox, activations):
    pair = [rdms(rsatoolbox, values, "euclidean") for values in activations]
    expected = rsatoolbox.rdm.compare(*pair, method="cosine_cov").item()
    assert linear_cka(*activations) == pytest.approx(expected, abs=1e-6)  # theirs solves iteratively


@pytest.mark.parametrize("metric", ["cosine", "correlation", "euclidean"])
def test_dissimilarities_are_scipys(activations, metric):
    from scipy.spatial.distance import pdist, squareform

    found = dissimilarity(activations[1], metric=metric)
    np.testing.assert_allclose(found, squareform(pdist(activations[1], metric)), atol=1e-12)


def test_second_order_is_scipys(activations):
    from scipy.stats import pearsonr, spearmanr

    matrices = [dissimilarity(values, metric="euclidean") for values in activations]
    above = [matrix[np.triu_indices(40, 1)] for matrix in matrices]
    assert second_order(*matrices) == pytest.approx(pearsonr(*above).statistic)
    assert second_order(*matrices, method="spearman") == pytest.approx(spearmanr(*above).statistic)
    assert second_order(matrices[0], -matrices[0]) == pytest.approx(-1)


def test_procrustes_is_scipys(activations):
    from scipy.linalg import orthogonal_procrustes
    from scipy.spatial import procrustes as with_scaling

    x, y = activations
    padded = np.pad(x, ((0, 0), (0, 3)))
    unit = [(v - v.mean(axis=0)) / np.linalg.norm(v - v.mean(axis=0)) for v in (padded, y)]
    turn, nuclear = orthogonal_procrustes(*unit)
    assert procrustes(x, y) == pytest.approx(np.linalg.norm(unit[0] @ turn - unit[1]))
    assert with_scaling(padded, y)[2] == pytest.approx(1 - nuclear**2)  # scipy scales the second too
    assert procrustes(x, y) ** 2 == pytest.approx(2 - 2 * np.sqrt(1 - with_scaling(padded, y)[2]))


# --------------------------------------------------------------------------- definitions, limits, what must not matter


@pytest.mark.parametrize("width", [6, 70])  # from features, and from the matrix of 40 examples
def test_linear_cka_is_its_definition(activations, width):
    x, y = activations[0], activations[1] @ np.random.default_rng(2).normal(size=(9, width))
    assert linear_cka(x, y, unbiased=True) == pytest.approx(song(x, y) / np.sqrt(song(x, x) * song(y, y)))
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    expected = np.linalg.norm(x.T @ y) ** 2 / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)
    assert linear_cka(x, y) == pytest.approx(expected)


@pytest.mark.parametrize("name", MEASURES)
def test_rotation_scale_and_offset_do_not_matter(activations, name):
    x, y = activations
    value = MEASURES[name](x, y)
    assert MEASURES[name](5 * x @ rotation(6) + 100, y) == pytest.approx(value, abs=1e-9)
    assert MEASURES[name](x, 1e-3 * y @ rotation(9) - 1) == pytest.approx(value, abs=1e-9)
    into_more_features_than_examples = np.linalg.qr(np.random.default_rng(3).normal(size=(70, 9)))[0].T
    assert MEASURES[name](x, y @ into_more_features_than_examples) == pytest.approx(value, abs=1e-9)
    order = np.random.default_rng(4).permutation(len(x))
    assert MEASURES[name](x[order], y[order]) == pytest.approx(value, abs=1e-9)
    assert abs(MEASURES[name](x[order], y) - value) > 0.05  # which example is which does
    assert MEASURES[name](y, x) == pytest.approx(value, abs=1e-9)
    assert MEASURES[name](x, np.pad(x @ rotation(6), ((0, 0), (0, 50)))) == pytest.approx(
        float(name != "procrustes"), abs=1e-7
    )


@pytest.mark.parametrize("name", MEASURES)
def test_an_invertible_linear_map_does_matter(activations, name):
    x, _ = activations
    same = MEASURES[name](x, x)
    assert abs(MEASURES[name](x, x * [30, 1, 1, 1, 1, 1]) - same) > 0.05


def test_unrelated_representations():
    rng, n, width = np.random.default_rng(5), 100, 50
    pairs = [rng.normal(size=(2, n, width)) for _ in range(60)]
    biased, unbiased = ([linear_cka(*pair, unbiased=u) for pair in pairs] for u in (False, True))
    assert np.mean(biased) == pytest.approx(width / (n + width), rel=0.02)
    assert abs(np.mean(unbiased)) < 4 * np.std(unbiased) / np.sqrt(60) < 0.02 and min(unbiased) < 0
    assert abs(np.mean([rsa(*pair) for pair in pairs])) < 0.01


def test_a_wide_kernel_is_a_linear_one(activations):
    for unbiased in (False, True):
        wide = rbf_cka(*activations, fraction=1e3, unbiased=unbiased)
        assert wide == pytest.approx(linear_cka(*activations, unbiased=unbiased), abs=1e-5)
    assert rbf_cka(*activations, fraction=0.1) != pytest.approx(linear_cka(*activations), abs=0.02)


def test_rbf_cka_is_its_definition(activations):
    from sklearn.metrics.pairwise import euclidean_distances, rbf_kernel

    kernels = []
    for values in activations:
        median = np.median(euclidean_distances(values)[np.triu_indices(40, 1)])
        kernels.append(rbf_kernel(values, gamma=1 / (2 * (0.4 * median) ** 2)))
    h = np.eye(40) - 1 / 40
    hsics = {(i, j): np.trace(kernels[i] @ h @ kernels[j] @ h) for i in (0, 1) for j in (0, 1)}
    expected = hsics[0, 1] / np.sqrt(hsics[0, 0] * hsics[1, 1])
    assert rbf_cka(*activations, fraction=0.4) == pytest.approx(expected)


def test_procrustes_is_a_metric():
    rng = np.random.default_rng(6)
    shapes = [rng.normal(size=(12, width)) for width in (3, 5, 20, 8)]  # wider than there are examples, too
    distance = np.array([[procrustes(a, b) for b in shapes] for a in shapes])
    np.testing.assert_allclose(np.diag(distance), 0, atol=1e-7)
    assert (distance[:, :, None] + distance[None] >= distance[:, None] - 1e-7).all() and distance.max() <= np.sqrt(2)
    apart = np.zeros((12, 2))
    apart[:6, 0], apart[6:, 1] = [1, -1, 1, -1, 1, -1], [1, -1, 1, -1, 1, -1]
    assert procrustes(apart[:, :1], apart[:, 1:]) == pytest.approx(np.sqrt(2))


def test_rsa_is_published_but_centred_and_without_the_diagonal(activations):
    centred = [1 - dissimilarity(values - values.mean(axis=0)) for values in activations]
    assert rsa(*activations) == pytest.approx(second_order(*centred, method="cosine"))
    unrelated = np.random.default_rng(7).normal(size=(2, 40, 30)) + 2  # ReLUs are off the origin
    published = [1 - dissimilarity(values) for values in unrelated]
    flat = [matrix.ravel() / np.linalg.norm(matrix) for matrix in published]
    assert flat[0] @ flat[1] > 0.95 and abs(rsa(*unrelated)) < 0.1


# ---------------------------------------------------------------------------------------------------------- streams


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 39), max_size=4), st.sampled_from([0.0, 1e3]), st.booleans())
def test_any_split_of_a_stream_merges_to_the_whole(cuts, offset, unbiased):
    rng = np.random.default_rng(8)
    x = rng.normal(size=(40, 6)) ** 2 + offset * rng.normal(size=6)
    y = x @ rng.normal(size=(6, 9)) + rng.normal(size=(40, 9))
    parts = [slice(a, b) for a, b in zip([0, *sorted(set(cuts))], [*sorted(set(cuts)), 40], strict=True)]
    xy = xx = yy = None
    for part in parts:
        xy = merge(xy, moments(x[part], y[part]))
        xx, yy = merge(xx, moments(x[part], x[part])), merge(yy, moments(y[part], y[part]))
    expected = linear_cka(x - x.mean(axis=0), y - y.mean(axis=0), unbiased=unbiased)
    assert cka(xy, xx, yy, unbiased=unbiased) == pytest.approx(expected, abs=1e-9)


def test_hsic_of_sums_is_the_literal_u_statistic(activations):
    assert hsic(moments(*activations), unbiased=True) == pytest.approx(song(*activations))


def test_a_stream_takes_no_more_memory():
    sizes = []
    for n in (10, 1000):
        sums = moments(np.ones((n, 3)), np.ones((n, 4)))
        sizes.append(sum(np.size(part) for part in sums))
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("block", [1, 7, 20, 128])
def test_all_networks_in_blocks_are_every_pair_at_once(monkeypatch, activations, block):
    monkeypatch.setattr(dissimilarities, "BLOCK", block)
    monkeypatch.setattr(dissimilarities, "COLUMNS", 4)
    x, y = activations
    networks = [x, y.astype(np.float32), np.full((40, 3), 0.1), np.pad(x, ((0, 0), (1, 0)), constant_values=0.1)]
    ckas, rsas = unbiased_ckas(networks), second_orders(networks)
    assert ckas[0, 1] == pytest.approx(song(x, y) / np.sqrt(song(x, x) * song(y, y)), abs=1e-6)
    cosines = [1 - dissimilarity(values - values.mean(axis=0)) for values in (x, y)]
    assert rsas[0, 1] == pytest.approx(second_order(*cosines, method="cosine"), abs=1e-6)
    for found in (ckas, rsas):
        np.testing.assert_allclose(found, found.T)
        assert found[0, 3] == pytest.approx(1) and np.isnan(found[2]).all()


@pytest.mark.parametrize("compare", [unbiased_ckas, second_orders])
def test_four_times_the_examples_take_no_more_memory(monkeypatch, compare):
    monkeypatch.setattr(dissimilarities, "BLOCK", 100)
    peaks = []
    for n in (400, 1600):
        networks = list(np.random.default_rng(0).normal(size=(10, n, 8)))
        tracemalloc.start()
        compare(networks)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_digits_survive_activations_far_from_0():
    rng = np.random.default_rng(9)
    x = rng.normal(size=(200, 5))
    y = x + rng.normal(size=(200, 5))
    far = merge(None, moments(x[:50] + 1e6, y[:50] - 1e6))
    xx, yy = moments(x[:50] + 1e6, x[:50] + 1e6), moments(y[:50] - 1e6, y[:50] - 1e6)
    far = merge(far, moments(x[50:] + 1e6, y[50:] - 1e6))
    xx, yy = (merge(a, moments(b, b)) for a, b in ((xx, x[50:] + 1e6), (yy, y[50:] - 1e6)))
    assert cka(far, xx, yy, unbiased=True) == pytest.approx(linear_cka(x, y, unbiased=True), abs=1e-7)


# ----------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("name", MEASURES)
def test_a_constant_representation_is_refused(activations, name):
    constant = np.full((40, 3), 0.1)  # its mean is not .1 in the last bit
    with pytest.raises(ValueError, match=r"same for every example|same activations"):
        MEASURES[name](activations[0], constant)


def test_what_cannot_be_compared_is_refused(activations):
    x, y = activations
    with pytest.raises(ValueError, match=r"got \(40, 6\) and \(39, 9\)"):
        linear_cka(x, y[1:])
    with pytest.raises(ValueError, match="N >= 4 examples"):
        linear_cka(x[:3], y[:3], unbiased=True)
    with pytest.raises(ValueError, match="finite"):
        procrustes(x, np.where(y > y.min(), y, np.nan))
    with pytest.raises(ValueError, match="cosine, correlation or euclidean, got 'l1'"):
        dissimilarity(x, metric="l1")
    with pytest.raises(ValueError, match="cosine, pearson or spearman, got 'tau'"):
        second_order(x @ x.T, y @ y.T, method="tau")
    with pytest.raises(ValueError, match="fraction > 0, got 0"):
        rbf_cka(x, y, fraction=0)
    with pytest.raises(ValueError, match="1 of 40 examples have activations without a direction"):
        dissimilarity(np.where(np.arange(40)[:, None] == 3, 0, x))
    with pytest.raises(ValueError, match="same examples, got 40, 40 and 39"):
        cka(moments(x, y), moments(x, x), moments(y[1:], y[1:]))


def test_blocks_of_features_are_one_product(monkeypatch, activations):
    from kdib.properties import similarity

    whole = linear_kernel(activations[1])
    monkeypatch.setattr(similarity, "COLUMNS", 4)
    np.testing.assert_allclose(linear_kernel(activations[1]), whole, rtol=1e-12)
    centred = activations[1] - activations[1].mean(axis=0)
    np.testing.assert_allclose(whole, centred @ centred.T, atol=1e-12)
