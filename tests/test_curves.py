"""config.curves and the first of config.properties: what does not hold together is named before anything runs."""

import pytest
from miniature import tiny

from kdib.checks import check_names
from kdib.config import as_dict, difference, parse

CURVE = {"xlabel": "steps", "log": True, "x": {"alone": 50, "self": 100.5}, "beside": ("teacher",)}


def test_a_curve_holds_together_and_may_be_added_to_an_old_workdir():
    old, new = parse(tiny()), parse(tiny(curves={"step": CURVE}))
    check_names(new)
    assert as_dict(new)["curves"]["step"] == CURVE
    assert difference(as_dict(old), as_dict(new)) == []
    bare = parse(tiny(curves={"step": {"xlabel": "steps", "x": {"alone": -1}}})).curves["step"]
    assert (bare.log, bare.beside) == (False, ())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"x": {"alon": 1}},
            r"config\.curves\.step\.x: 'alon' is unknown\. Did you mean 'alone'\? Known: teacher, peer",
        ),
        ({"beside": ("pear",)}, r"config\.curves\.step\.beside: 'pear' is unknown\. Did you mean 'peer'"),
        ({"x": {}}, r"config\.curves\.step\.x must name the fits on the curve"),
        ({"x": {"alone": 0}}, r"step\.x\.alone must be finite, and above 0 for log=True, got 0\.0"),
        ({"x": {"alone": float("inf")}}, r"step\.x\.alone must be finite"),
        ({"x": {"alone": "ten"}}, r"step\.x\.alone must be float, got 'ten'"),
        ({"xlable": "steps"}, r"Did you mean 'xlabel'\? Known: x, xlabel, log, beside"),
    ],
)
def test_what_is_wrong_with_a_curve_is_named(change, message):
    with pytest.raises(ValueError, match=message) as error:
        parse(tiny(curves={"step": CURVE | change}))
    assert "\n" not in str(error.value)


def test_the_headline_needs_a_property_with_a_direction_in_front():
    with pytest.raises(ValueError, match=r"'fidelity' is no scalar .* first: accuracy, perplexity, calib"):
        check_names(parse(tiny(properties=("fidelity", "accuracy"))))
    check_names(parse(tiny(properties=("calibration", "fidelity"))))


def test_an_unknown_property_lists_those_of_the_task():
    with pytest.raises(ValueError, match=r"'translation' is unknown\..* Known: accuracy, perplexity, calib"):
        check_names(parse(tiny(properties=("accuracy", "translation"))))
