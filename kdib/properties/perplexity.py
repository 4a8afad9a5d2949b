"""Perplexity: how well a language model predicts the next word.

Metrics of the rows, at group "" and coords (): "token_nll", the mean negative log-likelihood (nats) over all tokens of
the set, with the standard error over sentences, and "perplexity", its exponential.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from kdib.properties.base import Evidence, Primary, Property
from kdib.records import Row, Subject


def token_nll(nll_N: np.ndarray, tokens_N: np.ndarray) -> tuple[float, float]:
    """The mean NLL per token of sentences with NLL `nll_N` and `tokens_N` tokens, and its standard error.

    The mean is a ratio of sums, so sentences count by their length. The standard error is that of a ratio over
    sentences, by the delta method. Raises ValueError unless both arrays are [N], N > 0.

    Reference: Cochran, Sampling Techniques (1977), section 6.3.
    """
    nll_N, tokens_N = np.asarray(nll_N, np.float64), np.asarray(tokens_N, np.float64)
    if nll_N.shape != tokens_N.shape or nll_N.ndim != 1 or not len(nll_N):
        raise ValueError(f"expected sums and counts of one shape [N], N > 0; got {nll_N.shape} and {tokens_N.shape}")
    mean = nll_N.sum() / tokens_N.sum()
    residual_N = nll_N - mean * tokens_N
    return float(mean), float(residual_N.std() / np.sqrt(len(nll_N)) / tokens_N.mean())


def measure(subjects: Sequence[Subject], evidence: Evidence) -> Iterator[Row]:
    """The rows of every subject on every test set."""
    for subject in subjects:
        for split, dataset in evidence.sets.items():
            tokens_N = dataset.inputs["mask"].sum(axis=1)
            mean, se = token_nll(evidence.nll(subject, split), tokens_N)
            for metric, value, error in (("token_nll", mean, se), ("perplexity", np.exp(mean), np.exp(mean) * se)):
                n = int(tokens_N.sum())
                yield Row(subject.id, None, "perplexity", metric, split, "", (), float(value), n, float(error))


PROPERTY = Property(
    name="perplexity",
    title="Perplexity",
    kind="scalar",
    primary=Primary("perplexity", split="", group=""),
    higher_is_better=False,
    measure=measure,
    caption="Perplexity over all words of a test set’s sentences, including the ends of sentences. Sentences are left "
    "out if the vocabulary lacks the singular or the plural of their verb. Perplexity can worsen while agreement "
    "improves.",
    reference="Abnar, Dehghani, Zuidema (arXiv 2006.00555), section 3",
    caveat="Perplexity is dominated by the many words that have nothing to do with agreement. It depends on the "
    "vocabulary and on how unknown words are encoded: compare networks on one corpus with one encoding.",
)
