"""Glyphs of the ten digits: a few ways to write each, and for each way a few strokes through control points.

The strokes are Catmull-Rom splines, whose points are linear in the control points (Catmull & Rom 1974). Each way is
therefore a matrix, and thousands of digits with perturbed control points are drawn at once.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

N_POINTS = 64  # along the strokes of a digit
Stroke = Sequence[tuple[int, int]]  # (x, y), x to the right, y down, in hundredths of half a digit's height

OVAL = [(0, -100), (-45, -70), (-60, 0), (-45, 70), (0, 100), (45, 70), (60, 0), (45, -70)]
LINE_1 = [(0, -100), (0, 0), (0, 100)]
LOOPED_2 = [(-60, -60), (-10, -100), (50, -65), (25, 10), (-30, 85), (-65, 75), (-35, 50), (10, 85), (70, 80)]
BELLY_5 = [(-45, -5), (10, -25), (60, 20), (40, 80), (-10, 100), (-60, 75)]
CURLED_6 = [(40, -95), (-20, -50), (-55, 20), (-35, 85), (15, 95), (50, 50), (20, 10), (-30, 20), (-50, 55)]
BAR_7, SLOPE_7 = [(-60, -95), (60, -95)], [(60, -95), (10, 0), (-15, 100)]
CROSSED_8 = [(40, -75), (-5, -100), (-45, -60), (5, -10), (50, 45), (5, 100), (-45, 55), (0, 0), (40, -45), (35, -80)]
UPPER_8 = [(0, -100), (-40, -55), (0, -10), (40, -55), (0, -100)]
LOWER_8 = [(0, -10), (-50, 45), (0, 100), (50, 45), (0, -10)]
HEAD_9 = [(45, -60), (0, -100), (-50, -60), (-15, -10), (35, -30), (45, -70)]

WAYS: dict[int, list[list[Stroke]]] = {
    0: [[[*OVAL, (0, -100)]], [[(20, -95), *OVAL[1:], (-5, -100)]]],
    1: [[LINE_1], [LINE_1, [(-40, -55), (0, -100)]], [LINE_1, [(-35, -60), (0, -100)], [(-40, 100), (40, 100)]]],
    2: [
        [[(-60, -60), (-10, -100), (50, -70), (35, -10), (-20, 50), (-65, 95)], [(-65, 95), (70, 90)]],
        [LOOPED_2],
    ],
    3: [
        [
            [(-55, -75), (0, -100), (50, -60), (20, -15), (-15, -5)],
            [(-15, -5), (50, 15), (50, 75), (-5, 100), (-60, 75)],
        ],
        [[(-55, -95), (50, -95)], [(50, -95), (-5, -20)], [(-5, -20), (50, 0), (55, 65), (0, 100), (-60, 75)]],
    ],
    4: [
        [[(-40, -90), (-60, 10)], [(-60, 10), (65, 5)], [(35, -80), (35, 10), (30, 100)]],
        [[(30, -100), (-65, 30)], [(-65, 30), (65, 30)], [(30, -100), (30, 0), (30, 100)]],
    ],
    5: [[[(55, -95), (-40, -95)], [(-40, -95), (-45, -5)], BELLY_5]],
    6: [[CURLED_6], [[(-30, -100), (-50, -20), (-50, 60), (0, 100), (50, 60), (20, 10), (-40, 40)]]],
    7: [[BAR_7, SLOPE_7], [BAR_7, SLOPE_7, [(-25, 0), (45, 0)]], [[(-60, -60), (-50, -90), (60, -90)], SLOPE_7]],
    8: [[CROSSED_8], [UPPER_8, LOWER_8]],
    9: [
        [HEAD_9, [(45, -75), (42, 10), (30, 100)]],
        [HEAD_9, [(45, -75), (45, 20), (10, 90), (-40, 90)]],
    ],
}


class Glyphs(NamedTuple):
    """All T ways of writing a digit, padded to K control points.

    `points = spline_TxPxK[t] @ control_TxKx2[t]` are the N_POINTS points of way t. `joined_TxP` is 1 where a point and
    the next one belong to the same stroke. The ways of digit d are `first_D[d]` and the `count_D[d]` - 1 after it.
    """

    control_TxKx2: np.ndarray
    spline_TxPxK: np.ndarray
    joined_TxP: np.ndarray
    first_D: np.ndarray
    count_D: np.ndarray


@functools.cache
def glyphs() -> Glyphs:
    """The table of all ways, digit by digit."""
    ways = [way for digit in WAYS for way in WAYS[digit]]
    count_D = np.array([len(WAYS[digit]) for digit in WAYS])
    width = max(sum(map(len, way)) for way in ways)
    control_TxKx2 = np.zeros((len(ways), width, 2), np.float32)
    spline_TxPxK = np.zeros((len(ways), N_POINTS, width), np.float32)
    joined_TxP = np.ones((len(ways), N_POINTS), np.float32)
    for t, way in enumerate(ways):
        row = column = 0
        for stroke, n in zip(way, _shares(way), strict=True):
            k = len(stroke)
            control_TxKx2[t, column : column + k] = np.array(stroke) / 100
            spline_TxPxK[t, row : row + n, column : column + k] = spline(k, n)
            row, column = row + n, column + k
            joined_TxP[t, row - 1] = 0
    return Glyphs(control_TxKx2, spline_TxPxK, joined_TxP, np.cumsum(count_D) - count_D, count_D)


def _shares(way: Sequence[Stroke]) -> list[int]:
    """The number of the N_POINTS points of each stroke, in proportion to its length."""
    lengths = [np.sum(np.hypot(*np.diff(np.array(stroke), axis=0).T)) for stroke in way]
    ends = np.round(N_POINTS * np.cumsum(lengths) / np.sum(lengths)).astype(int)
    return np.diff(ends, prepend=0).tolist()


def spline(k: int, n: int) -> np.ndarray:
    """[n, k]: n points of the Catmull-Rom spline through k control points, from the first to the last.

    The control points before the first and after the last are reflections: p[-1] = 2 p[0] - p[1].
    """
    place = np.linspace(0, k - 1, n)
    start = np.minimum(place.astype(int), k - 2)
    t = (place - start)[:, None]
    weights = 0.5 * np.concatenate(
        [-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3], axis=1
    )
    padded = np.zeros((n, k + 2))
    np.put_along_axis(padded, start[:, None] + np.arange(4)[None, :], weights, axis=1)
    mirror = np.pad(np.eye(k), ((1, 1), (0, 0)))
    mirror[0, :2], mirror[-1, -2:] = (2, -1), (-1, 2)
    return padded @ mirror
