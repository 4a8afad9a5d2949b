"""Accuracy and calibration on MNIST-C-style corruptions of the first test set.

Metrics of the rows, at group "corruption": "accuracy" and "ece" (15 bins of equal width) at (("corruption", name),);
"mean_accuracy" and "mean_ece" over the 15 at coords (), with `n` the number of corruptions. N_IMAGES images are
corrupted, always with the same random draw.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np

from kdib.properties.base import Curve, Evidence, Primary, Property, evenly, log_softmax, mean_and_se
from kdib.properties.calibration import expected_calibration_error
from kdib.records import Row, Subject
from kdib.tasks.base import gather
from kdib.tasks.images.corruptions import CORRUPTIONS, STYLE, corrupt

N_IMAGES = 2000
SEED = 0  # of the corruptions; fixed, so that every study sees the same images


def mean_corruption_error(error_C: np.ndarray, reference_error_C: np.ndarray) -> float:
    """The mean over C corruptions of error / reference error, errors in [0, 1]; the reference network itself scores 1.

    Each corruption has one strength. The literature reports 100 times this value.

    Raises:
      ValueError: unless both arrays are [C], C > 0, and every reference error is positive.
    Reference: Hendrycks, Dietterich, Benchmarking Neural Network Robustness, ICLR (2019), section 3.2.
    """
    error_C, reference_error_C = np.asarray(error_C, np.float64), np.asarray(reference_error_C, np.float64)
    if error_C.shape != reference_error_C.shape or error_C.ndim != 1 or not len(error_C):
        raise ValueError(f"expected errors of one shape [C], got {error_C.shape} and {reference_error_C.shape}")
    if not (reference_error_C > 0).all():
        raise ValueError("expected reference errors above 0: a ratio to a faultless network is undefined")
    return float((error_C / reference_error_C).mean())


def relative_errors(
    errors: Mapping[tuple[str, int], Mapping[str, float]], reference: str
) -> tuple[dict[str, dict[int, float]], list[str]]:
    """The mean corruption error of every network, relative to the network of the fit `reference` at the same seed.

    Args:
      errors: {(fit, seed): {corruption: error in [0, 1]}}.
      reference: a fit; networks whose seed it lacks are left out.

    Returns:
      {fit: {seed: ratio}}, and the corruptions that are left out for all networks. These are the corruptions on which
      some reference network makes no error, so that the ratio is undefined. If none remains, the dict is empty.
    """
    known = {seed: own for (fit, seed), own in errors.items() if fit == reference}
    names = list(dict.fromkeys(name for own in known.values() for name in own))
    faultless = [name for name in names if not all(own[name] > 0 for own in known.values())]
    kept, found = [name for name in names if name not in faultless], {}
    for (fit, seed), own in errors.items():
        if kept and seed in known:
            pair = (np.array([of[name] for name in kept]) for of in (own, known[seed]))
            found.setdefault(fit, {})[seed] = mean_corruption_error(*pair)
    return found, faultless


def measure(subjects: Sequence[Subject], evidence: Evidence) -> Iterator[Row]:
    """The rows of every subject; the images are corrupted once."""
    split, dataset = next(iter(evidence.sets.items()))
    if "image" not in dataset.inputs:
        raise TypeError(f"{split} holds no images to corrupt; its columns are {sorted(dataset.inputs)}")
    batch = gather(dataset.inputs, evenly(dataset.size, N_IMAGES))
    pictures = _corrupted(batch["image"].tobytes(), batch["image"].shape)
    for subject in subjects:
        answers = {name: evidence.asked(subject, {**batch, "image": images}) for name, images in pictures.items()}
        yield from _subject_rows(subject.id, split, answers, batch["label"])


@functools.lru_cache(maxsize=1)  # a study measures a few subjects at a time, all on the same images
def _corrupted(pixels: bytes, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """The images [N, H, W, C] under every corruption."""
    images, key = np.frombuffer(pixels, np.uint8).reshape(shape), jax.random.key(SEED)
    return {
        name: np.asarray(corrupt(name, jax.random.fold_in(key, number), images))
        for number, name in enumerate(CORRUPTIONS)
    }


def _subject_rows(subject: str, split: str, answers: dict[str, np.ndarray], labels_N: np.ndarray) -> Iterator[Row]:
    def row(metric, coords, value, n, se=None):
        return Row(subject, None, "corruptions", metric, split, "corruption", coords, value, n, se)

    correct_CxN = np.stack([logits_NxK.argmax(axis=1) == labels_N for logits_NxK in answers.values()])
    eces = [expected_calibration_error(np.exp(log_softmax(logits)), labels_N) for logits in answers.values()]
    for name, correct_N, ece in zip(answers, correct_CxN, eces, strict=True):
        accuracy, se = mean_and_se(correct_N)
        yield row("accuracy", (("corruption", name),), accuracy, len(labels_N), se)
        yield row("ece", (("corruption", name),), ece, len(labels_N))
    # All corruptions share their images, so the standard error is that of the per-image means.
    value, se = mean_and_se(correct_CxN.mean(axis=0))
    yield row("mean_accuracy", (), value, len(answers), se)
    yield row("mean_ece", (), float(np.mean(eces)), len(answers))


PROPERTY = Property(
    name="corruptions",
    title=f"{STYLE} corruptions",
    kind="scalar",
    primary=Primary("mean_accuracy", split="", group="corruption"),
    higher_is_better=True,
    measure=measure,
    caption=f"Accuracy and expected calibration error under each of {len(CORRUPTIONS)} {STYLE} corruptions of "
    f"{N_IMAGES} evenly spaced test images (or all, if there are fewer), at MNIST-C’s strengths. The images are "
    "generated here with one fixed random draw; they are not the published data set.",
    reference="Mu, Gilmer, MNIST-C (ICML workshop 2019); Hendrycks, Dietterich (ICLR 2019)",
    curves=(
        Curve("accuracy", "corruption", x="corruption", xlabel="corruption", ylabel="accuracy", relative_error=True),
        Curve("ece", "corruption", x="corruption", xlabel="corruption", ylabel="ECE"),
    ),
    caveat="Each corruption has one strength and equal weight. The mean says nothing about other strengths or "
    "corruptions. A network that is better everywhere is better here, too: compare with the accuracy on clean images.",
)
