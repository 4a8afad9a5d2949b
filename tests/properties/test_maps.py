"""kdib.properties.maps: known configurations, the published fault, and pictures that stay as they are."""

import numpy as np
import pytest

from kdib.properties.maps import from_pairs, mds, nearly_identical, path_maps, stress, structureless

POINTS = np.random.default_rng(0).normal(size=(9, 2)) * [3, 1]


def distances(points):
    return np.linalg.norm(points[:, None] - points[None], axis=-1)


def test_points_of_a_plane_are_recovered():
    found = mds(7 * distances(POINTS))
    np.testing.assert_allclose(distances(found.xy_Nx2), 7 * distances(POINTS), rtol=1e-6)
    assert found.stress < 1e-6


def test_the_stress_is_kruskals():
    from sklearn.manifold import smacof

    matrix = distances(np.random.default_rng(1).normal(size=(8, 5)))
    xy, expected = smacof(matrix, n_init=1, random_state=0, normalized_stress=True)
    assert stress(matrix, xy) == pytest.approx(expected)
    assert stress(matrix, np.zeros((8, 2))) == 0.0
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)
    assert stress(2 * distances(square), square) == pytest.approx(1.0)  # by hand: every d - 2 d is d


def test_the_same_matrix_gives_the_same_picture():
    matrix = distances(POINTS)
    first, again = mds(matrix), mds(matrix)
    np.testing.assert_array_equal(first.xy_Nx2, again.xy_Nx2)
    for seed in range(1, 3):  # other starts end mirrored and turned
        np.testing.assert_allclose(mds(matrix, seed).xy_Nx2, first.xy_Nx2, atol=1e-6)
    x, y = first.xy_Nx2.T
    assert x[0] < 0 and y[np.abs(y).argmax()] > 0 and x.std() > y.std() and abs(x @ y) < 1e-9


def test_a_map_is_turned_onto_a_reference_and_not_scaled():
    turn = np.array([[0.6, 0.8], [0.8, -0.6]])  # a reflection
    reference = POINTS @ turn + [5, 6]
    reference[[2, 4]] = np.nan  # networks that were not there before
    found = mds(2 * distances(POINTS), reference_Nx2=reference).xy_Nx2
    centre = POINTS[[i for i in range(9) if i not in (2, 4)]].mean(axis=0)
    np.testing.assert_allclose(found, 2 * (POINTS - centre) @ turn + centre @ turn + [5, 6], atol=1e-6)
    unknown = mds(distances(POINTS), reference_Nx2=np.full((9, 2), np.nan))
    np.testing.assert_array_equal(unknown.xy_Nx2, mds(distances(POINTS)).xy_Nx2)
    with pytest.raises(ValueError, match=r"reference points \(9, 2\), got \(8, 2\)"):
        mds(distances(POINTS), reference_Nx2=reference[:8])


# ------------------------------------------------------------------------------------------------ the published fault


def test_copies_of_one_network_are_flagged_and_drawn_as_one_point():
    assert nearly_identical(np.zeros((11, 11))) == [tuple(range(11))]
    rounding = np.abs(np.random.default_rng(2).normal(size=(11, 11))) * 1e-7
    rounding = np.triu(rounding, 1) + np.triu(rounding, 1).T
    assert nearly_identical(rounding) == [tuple(range(11))]
    np.testing.assert_array_equal(mds(rounding).xy_Nx2, 0)
    from sklearn.manifold import smacof

    spread = smacof(rounding, n_init=8, random_state=0)[0]  # what is drawn otherwise: axes follow the data
    assert distances(spread).max() > 1e-7


def test_a_shallow_copied_path_is_one_point_among_others():
    almost = POINTS[3] + 1e-5 * np.random.default_rng(5).normal(size=(10, 2))  # far more than rounding
    points = np.concatenate([POINTS, almost])
    matrix = distances(points)
    assert nearly_identical(matrix) == [(3, *range(9, 19))]
    found = mds(matrix)
    assert (found.xy_Nx2[[3, *range(9, 19)]] == found.xy_Nx2[3]).all()
    np.testing.assert_allclose(distances(found.xy_Nx2), matrix, atol=0.05)
    joint, alone = path_maps(matrix, ["honest"] * 9 + ["copied"] * 10)
    assert (
        joint.stress < 0.01 and distances(alone["copied"].xy_Nx2).max() == 0 < distances(alone["honest"].xy_Nx2).max()
    )


def test_every_two_of_a_group_are_close_and_not_only_neighbours():
    chain = distances(np.stack([np.linspace(0, 1, 2001), np.zeros(2001)], axis=1)[::10])
    assert all(chain[np.ix_(group, group)].max() <= 0.02 for group in nearly_identical(chain, relative=0.02))
    assert nearly_identical(distances(POINTS)) == [] == nearly_identical(np.zeros((1, 1)))


def test_equal_distances_look_like_a_path_and_the_stress_says_that_the_plane_shows_nothing():
    fault = structureless(11)
    apart = distances(fault.xy_Nx2)[np.triu_indices(11, 1)]
    assert apart.min() > 0.3 and apart.max() > 1.2  # well spread: nothing in the picture tells
    assert nearly_identical(np.ones((11, 11)) - np.eye(11)) == []  # they do differ
    assert fault.stress > 0.3  # Kruskal: .2 is poor
    path = np.stack([np.linspace(0, 1, 11), np.linspace(0, 1, 11) ** 2], axis=1)
    assert mds(distances(path)).stress < 1e-6
    noise = np.triu(np.random.default_rng(3).normal(size=(11, 11)), 1) * 0.01
    almost = mds(np.ones((11, 11)) - np.eye(11) + noise + noise.T)
    assert almost.stress == pytest.approx(fault.stress, rel=0.02)


# ------------------------------------------------------------------------------------------------- paths and pairs


def test_each_path_alone_looks_like_its_part_of_the_common_map():
    rng = np.random.default_rng(4)
    paths = [np.cumsum(rng.normal(size=(6, 2)), axis=0) + 5 * i for i in range(3)]
    joint, alone = path_maps(distances(np.concatenate(paths)), ["a"] * 6 + ["b"] * 6 + ["c"] * 6)
    for i, run in enumerate("abc"):
        np.testing.assert_allclose(alone[run].xy_Nx2, joint.xy_Nx2[6 * i : 6 * i + 6], atol=0.1)
    with pytest.raises(ValueError, match="each of 18 snapshots, got 17"):
        path_maps(distances(np.concatenate(paths)), ["a"] * 17)


def test_pairs_make_a_matrix():
    names, matrix = from_pairs({("a", "b"): 1.0, ("c", "a"): 2.0, ("b", "c"): 3.0, ("c", "b"): 3.0})
    assert names == ["a", "b", "c"]
    np.testing.assert_array_equal(matrix, [[0, 1, 2], [1, 0, 3], [2, 3, 0]])
    with pytest.raises(ValueError, match="every pair of 3, got none for b and c"):
        from_pairs({("a", "b"): 1.0, ("c", "a"): 2.0})
    with pytest.raises(ValueError, match=r"two distances, 1\.0 and 2\.0"):
        from_pairs({("a", "b"): 1.0, ("b", "a"): 2.0})


def test_small_maps():
    np.testing.assert_array_equal(mds([[0.0]]).xy_Nx2, [[0, 0]])
    np.testing.assert_allclose(mds([[0, 2], [2, 0]]).xy_Nx2, [[-1, 0], [1, 0]], atol=1e-6)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.zeros((2, 3)), r"\[N, N\], N > 0, got \(2, 3\)"),
        ([[0, 1], [2, 0]], "symmetric"),
        ([[0, -1], [-1, 0]], "non-negative"),
        ([[0, np.nan], [np.nan, 0]], "finite"),
        ([[1, 1], [1, 1]], "0 on the diagonal"),
    ],
)
def test_what_is_no_distance_matrix_is_refused(matrix, message):
    for function in (mds, nearly_identical):
        with pytest.raises(ValueError, match=message):
            function(matrix)
