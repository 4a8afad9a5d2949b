"""Baselines without syntax, which see only the nouns or the bag of words before the verb.

Balanced accuracy is the mean of the accuracies for singular and plural.

Reference: Linzen, Dupoux & Goldberg 2016, section 4 (noun baselines).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from kdib.tasks.agreement.encoding import Examples

# A baseline predicts 0 for singular, 1 for plural, and UNDECIDED if it would have to toss a coin.
UNDECIDED = 0.5
STEPS = 100


class Fitted(NamedTuple):
    """What the baselines learn from training data: the majority class, and the log odds of the plural by word."""

    majority: float
    column: Mapping[str, int]
    weights: np.ndarray


def fit(train: Examples) -> Fitted:
    """Fit the baselines, to be measured on many test sets; takes one second for 50,000 sentences."""
    words = dict.fromkeys(word for i in range(train.size) for word in train.prefix(i))
    column = {word: number for number, word in enumerate(words)}
    weights = fit_logistic(*_presence(train, column), train.label, len(column))
    return Fitted(_answer(train.label.mean() - 0.5), column, weights)


def baseline_accuracies(
    train: Examples | Fitted, test: Examples, groups: Mapping[str, np.ndarray]
) -> dict[str, dict[str, Any]]:
    """Balanced accuracy of every baseline on `test`, overall and by group.

    `groups` are columns [N]; -1 means no group. Returns {baseline: {"overall": a, column: {value: a}}}. The values
    are strings, as JSON requires. An accuracy is None if singular or plural does not occur. UNDECIDED counts as half
    correct.

    - majority_class: the more frequent number in `train`;
    - first_noun, last_noun, majority_noun: the number of the first, last or most nouns before the verb, which include
      the subject;
    - bag_of_words: a ridge logistic regression on the presence of words before the verb, fitted to `train`.
    """
    fitted = train if isinstance(train, Fitted) else fit(train)
    answers = {
        "majority_class": np.full(test.size, fitted.majority),
        **noun_answers(test),
        "bag_of_words": bag_of_words_answers(fitted, test),
    }
    return {name: _by_group(1 - np.abs(answer - test.label), test.label, groups) for name, answer in answers.items()}


def balanced_accuracy(score: np.ndarray, label: np.ndarray) -> float | None:
    """The mean over singular and plural of the mean score [N] in 0..1; None if either does not occur."""
    if not 0 < label.sum() < len(label):
        return None
    return float(np.mean([score[label == number].mean() for number in (0, 1)]))


def _by_group(score: np.ndarray, label: np.ndarray, groups: Mapping[str, np.ndarray]) -> dict:
    columns = {
        name: {
            str(value): balanced_accuracy(score[column == value], label[column == value])
            for value in np.unique(column[column >= 0])
        }
        for name, column in groups.items()
    }
    return {"overall": balanced_accuracy(score, label), **columns}


def noun_answers(examples: Examples) -> dict[str, np.ndarray]:
    """The predictions [N] of the three noun baselines, UNDECIDED for sentences without a noun."""
    nouns = [
        [float(tag.endswith("S")) for tag in examples.prefix_tags(i) if tag.startswith("NN")]
        for i in range(examples.size)
    ]
    plural_share = np.array([np.mean(numbers) if numbers else UNDECIDED for numbers in nouns])
    return {
        "first_noun": np.array([numbers[0] if numbers else UNDECIDED for numbers in nouns]),
        "last_noun": np.array([numbers[-1] if numbers else UNDECIDED for numbers in nouns]),
        "majority_noun": _answer(plural_share - 0.5),
    }


def bag_of_words_answers(fitted: Fitted, test: Examples) -> np.ndarray:
    """The predictions [N] of the logistic regression; words that do not occur in training are ignored."""
    return _answer(_log_odds(*_presence(test, fitted.column), fitted.weights, test.size))


def _answer(log_odds: Any) -> Any:
    """0 or 1 by the sign of the log odds, UNDECIDED at zero."""
    return np.sign(log_odds) / 2 + 0.5


def _presence(examples: Examples, column: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """The (row, column) pairs at which the presence matrix is 1."""
    found = [{column[word] for word in examples.prefix(i) if word in column} for i in range(examples.size)]
    rows = np.repeat(np.arange(examples.size), [len(columns) for columns in found])
    return rows, np.fromiter((number for columns in found for number in columns), np.int64, len(rows))


def _log_odds(rows: np.ndarray, columns: np.ndarray, weights: np.ndarray, n: int) -> np.ndarray:
    """[n] log odds of the plural; the last weight is the intercept."""
    return np.bincount(rows, weights[columns], minlength=n) + weights[-1]


def fit_logistic(rows: np.ndarray, columns: np.ndarray, label: np.ndarray, n_columns: int) -> np.ndarray:
    """[n_columns + 1] weights, the intercept last, that minimise the sum of log losses plus |w|^2 / 2.

    The ones of the design matrix are at (`rows`, `columns`). Nesterov's accelerated gradient with a diagonal
    bound on the curvature, (w.x)^2 <= |x|_1 sum_j x_j w_j^2, so that rare words learn as fast as common ones.
    """
    n = len(label)
    size = np.bincount(rows, minlength=n) + 1.0
    curvature = np.append(np.bincount(columns, size[rows], minlength=n_columns), size.sum()) / 4 + 1
    weights = ahead = np.zeros(n_columns + 1)
    for step in range(STEPS):
        residual = 1 / (1 + np.exp(-_log_odds(rows, columns, ahead, n))) - label
        gradient = np.append(np.bincount(columns, residual[rows], minlength=n_columns), residual.sum()) + ahead
        previous, weights = weights, ahead - gradient / curvature
        ahead = weights + step / (step + 3) * (weights - previous)
    return weights
