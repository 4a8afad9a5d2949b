"""Validation chooses, and nothing else does."""

from kdib.selection import chosen, last_validation, tried_rates


def line(fit, seed, step, value, split="validation", metric="accuracy"):
    return {"fit": fit, "seed": seed, "step": step, "value": value, "split": split, "metric": metric}


def test_the_last_step_counts_and_a_test_set_does_not():
    lines = [
        line("early", 0, 100, 0.9), line("early", 0, 50, 0.99), line("late", 0, 100, 0.8), line("late", 0, 100, 0.85),
        line("early", 1, 100, 0.7), line("late", 1, 100, 0.75),
        line("late", 0, 100, 1.0, split="test"), line("early", 0, 100, 0.1, metric="shifted_accuracy"),
    ]  # fmt: skip
    found = last_validation(lines)
    assert found == {"early": {0: 0.9, 1: 0.7}, "late": {0: 0.85, 1: 0.75}}
    assert chosen(found, ("early", "late")) == {0: "early", 1: "late"}  # whatever the test set says of seed 0
    assert last_validation(lines, "shifted_accuracy") == {"early": {0: 0.1}}


def test_the_first_of_equals_is_chosen_of_seeds_that_all_have():
    values = {"a": {0: 0.5, 1: 0.5, 2: 0.9}, "b": {0: 0.5, 1: 0.6}}
    assert chosen(values, ("a", "b")) == {0: "a", 1: "b"}
    assert chosen(values, ("b", "a")) == {0: "b", 1: "b"}
    assert chosen(values, ("a", "absent")) == chosen(values, ()) == {}


def test_rates_are_those_of_development_runs_that_got_to_the_end():
    def run(rate, seed, step, value, fit="a", metric="loss", split="validation"):
        name = f"{fit}/seed{seed}" + (f"-learning_rate={rate}" if rate else "")
        return line(fit, seed, step, value, split, metric) | {"run": name}

    lines = [
        run(0.1, 1000, 50, 9.0), run(0.1, 1000, 100, 1.0), run(0.1, 1001, 100, 3.0),
        run(2e-05, 1000, 100, 5.0), run(2e-05, 1001, 100, 7.0),
        run(0.5, 1000, 50, 0.1), run(0.5, 1001, 100, 0.1),  # one went non-finite
        run(None, 0, 100, 0.0), run(0.1, 1000, 100, 0.9, metric="accuracy"), run(0.1, 1000, 100, 0.2, split="train"),
        run(0.1, 1000, 200, 4.0, fit="twice as long"),
    ]  # fmt: skip
    assert tried_rates(lines) == {"a": {0.1: 2.0, 2e-05: 6.0}, "twice as long": {0.1: 4.0}}
    assert tried_rates(lines[-4:-1]) == {}
