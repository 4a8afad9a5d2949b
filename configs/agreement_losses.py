"""Which loss transfers what? One LSTM teaches the same Transformer by every loss on its outputs, beside every control.

    python -m kdib.main --config=configs/agreement_losses.py --workdir=runs/agreement_losses

Data, networks and recipe are those of configs/lstm_to_transformer.py, and so are its four roles. `distilled` minimizes
the forward KL at temperature 1 against the teacher's stored outputs, without labels. Each of the other students of the
same teacher differs from `distilled` in one thing:

    reverse_kl, jensen_shannon   the direction of the divergence
    tempered                     temperature 5, the published value for MNIST
    hard_label                   only the class that the teacher finds likelier
    similarity                   .9 KL, .1 `similarity_preserving` on the last hidden layer (published weights)
    online, mutual               the teacher trains beside the student; in `mutual` it also learns from the student

The controls have no LSTM teacher, or not its knowledge: `label_smoothed` at the entropy of the teacher's outputs,
`confident` (labels and a penalty on low entropy), `shuffled_soft` (the teacher's outputs, permuted within a class),
`peer_ensemble` (all seeds of the Transformer's peer as one teacher) and `alone_long` (labels, for the steps of teacher
and student together).

`:language` trains language models. It leaves out what needs stored outputs, applies `similarity` between all words of
a batch, as published, and adds `top_k`: the teacher's five likeliest words, which between two classes would be
hard_label. Sizes and recipe are those of configs/agreement_grid.py:language, with 8,000 steps on generated sentences,
where two of three LSTMs learned agreement there (none in 4,000). `:corpus` and `:stream` read text.

Time on 2 CPU cores: not timed on an idle machine; expect hours for `:language`.
Expected numbers: experiments/agreement_losses, where the LSTM's embeddings are as wide as the Transformer's and every
fit has a tuned learning rate. `:language` was not measured.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

BASE = runpy.run_path(str(Path(__file__).parent / "lstm_to_transformer.py"))
GRID = runpy.run_path(str(Path(__file__).parent / "agreement_grid.py"))
fields, fit = BASE["_fields"], BASE["_fit"]
VARIANTS = ("language", "corpus", "stream", "smoke")
TEACHER, STUDENT = "student.hidden.teacher_train_logits", "student.hidden.student_logits"  # in an online pair


def get_config(variants: str = "") -> ConfigDict:
    """Return the study; `variants` is a comma-separated choice of VARIANTS."""
    chosen = [name for name in variants.split(",") if name]
    for name in chosen:
        if name not in VARIANTS:
            raise ValueError(f"--config: unknown variant {name!r}; known: {', '.join(VARIANTS)}")
    rest = [name for name in chosen if name != "language"]
    config = BASE["get_config"](",".join(["online", *rest])).unlock()
    config.title = "Which loss carries what: LSTM → Transformer on subject–verb agreement"
    config.properties = ("accuracy", "calibration", "fidelity")
    _losses(config)
    _students(config)
    _controls(config)
    if "language" in chosen:
        _language(config)
    if "language" in chosen and "smoke" not in chosen:
        _learnable(config)
    return config.lock()


def _kl(direction: str, weight: float = 1.0, temperature: float = 1.0, **more) -> ConfigDict:
    return fields(fn="softened_kl", weight=weight, temperature=temperature, direction=direction, **more)


def _labels(**more) -> ConfigDict:
    return fields(fn="cross_entropy", weight=1.0, **more)


def _losses(config: ConfigDict) -> None:
    hidden = ("student.hidden.penultimate", "teacher.hidden.penultimate")
    config.losses.reverse_kl = fields(kl=_kl("reverse"))
    config.losses.jensen_shannon = fields(kl=_kl("jensen_shannon"))
    config.losses.tempered = fields(kl=_kl("forward", temperature=5.0))
    config.losses.hard_label = fields(hard=fields(fn="hard_label", weight=1.0))
    config.losses.similarity = fields(
        kl=_kl("forward", 0.9), similarity=fields(fn="similarity_preserving", weight=0.1, inputs=hidden)
    )
    config.losses.mutual = fields(  # Zhang et al. 2018, equations 3 and 5
        labels=_labels(),
        kl=_kl("forward", inputs=("student.logits", "student.hidden.teacher_logits")),
        teacher_labels=_labels(inputs=(TEACHER, "batch.label")),
        teacher_kl=_kl("forward", inputs=(TEACHER, STUDENT)),
    )
    config.losses.smoothing = fields(smoothed=fields(fn="label_smoothing", weight=1.0, epsilon=0.0))
    config.losses.confidence = fields(labels=_labels(), penalty=fields(fn="entropy_penalty", weight=0.1))


def _students(config: ConfigDict) -> None:
    for loss in ("reverse_kl", "jensen_shannon", "tempered", "hard_label"):
        config.fits[loss] = fit("transformer", loss, teacher="teacher")
    config.fits.similarity = fit("transformer", "similarity", teacher="teacher", answers="live")
    config.fits.mutual = fit("transformer", "mutual", teacher="teacher", answers="online")


def _controls(config: ConfigDict) -> None:
    config.fits.label_smoothed = fit("transformer", "smoothing", match_entropy="teacher")
    config.fits.confident = fit("transformer", "confidence")
    config.fits.shuffled_soft = fit("transformer", "kd", teacher="teacher", shuffle=True)
    config.fits.peer_ensemble = fit("transformer", "kd", teacher="peer", ensemble="mean_probability")
    config.fits.alone_long = fit("transformer", "labels", budget=2.0)


def _language(config: ConfigDict) -> None:
    """Train language models, without the fits that need stored outputs."""
    config.title = config.title.replace("agreement", "agreement, language models")
    config.task.setup = "language_model"
    config.models.transformer.preset = config.models.transformer.preset.replace("transformer", "transformer_seq")
    for name in ("label_smoothed", "shuffled_soft"):
        del config.fits[name]
    del config.losses.smoothing
    config.losses.top_k = fields(kl=fields(fn="top_k_kl", weight=1.0, k=5, temperature=1.0))
    config.fits.top_k = fit("transformer", "top_k", teacher="teacher")
    for own in config.fits.values():
        if own.answers == "table":
            own.answers = "live"
    for loss in config.losses.values():
        for term in loss.values():
            term.where = "batch.mask"
    config.properties = ("accuracy", "perplexity", "calibration", "fidelity")
    config.published = fields()
    if config.train.buckets:
        config.train.buckets = (12, 20)


def _learnable(config: ConfigDict) -> None:
    """Set networks, recipe and steps with which an LSTM can learn agreement from words."""
    generated = config.task.source == "grammar"
    for name in ("lstm", "transformer"):
        config.models[name].update(GRID["_as_wide"](name, 64) | {"layers": 2})
    GRID["_learnable"](config, generated=generated)
    if generated:
        config.train.steps = 8_000
