"""Which of sequentiality, memory bottleneck and recursion carries the bias? Every network teaches every other.

    python -m kdib.main --config=configs/agreement_grid.py --workdir=runs/agreement_grid

After Abnar, Dehghani & Zuidema (2020). Four networks have different biases: an LSTM (all three), a Universal
Transformer-seq (sequentiality, recursion), a Transformer-seq (sequentiality) and a bidirectional Transformer (none).
Each learns from labels, from each of the others, and from another network of its own kind. This gives 16 cells, with
self-distillation on the diagonal. Teachers' outputs are computed once, before the students train.

Data and recipe are those of configs/lstm_to_transformer.py, whose docstring defines A-accuracy. Every network has two
layers, and words and units are 32 wide (64 in `:language`). `:corpus` and `:stream` read text as they do there.

`:language` trains language models instead, which are measured by perplexity and by a forced choice between the two
forms of the verb. Language models read from left to right, so every Transformer is sequential; the three networks are
an LSTM, a UT-seq and a causal Transformer. `:sizes` has the four networks of the published table, an LSTM and a
Transformer in two sizes each, at laptop sizes (the presets `lm_*_published` have the published sizes). Language models
query their teachers at every step, because stored outputs would need one vocabulary-sized vector per word.

Time on 2 CPU cores: half an hour on a busy machine (not timed on an idle one); `:smoke` 3 minutes with nothing
compiled yet. Nine of the fifteen fits of `:language` took 63 minutes on a busy machine.
Expected A-accuracy on the test set, 3 seeds: the LSTM 0.93, the other networks 0.28 to 0.34 from any teacher, and the
LSTM 0.30 to 0.32 from any of them. In `:language` every student performs like its own teacher. After four times as
many steps two of three LSTMs have learned agreement, and their students more of it. experiments/agreement_grid reports
all pairs, with a learning rate tuned for every fit of the classifiers.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

BASE = runpy.run_path(str(Path(__file__).parent / "lstm_to_transformer.py"))
fields, model, fit = BASE["_fields"], BASE["_model"], BASE["_fit"]
VARIANTS = ("language", "sizes", "corpus", "stream", "smoke")

NETWORKS = {"lstm": "lstm", "ut_seq": "ut_seq", "transformer_seq": "transformer_seq", "transformer": "transformer"}
LANGUAGE = {"lstm": "lstm", "ut_seq": "ut_seq", "transformer": "transformer_seq"}
SIZES = {
    "lstm": "lstm",
    "small_lstm": "lstm",
    "transformer": "transformer_seq",
    "small_transformer": "transformer_seq",
}


def get_config(variants: str = "") -> ConfigDict:
    """Return the study; `variants` is a comma-separated choice of VARIANTS."""
    chosen = [name for name in variants.split(",") if name]
    for name in chosen:
        if name not in VARIANTS:
            raise ValueError(f"--config: unknown variant {name!r}; known: {', '.join(VARIANTS)}")
    language = "language" in chosen or "sizes" in chosen
    config = BASE["get_config"](",".join(name for name in chosen if name in BASE["VARIANTS"])).unlock()
    networks = SIZES if "sizes" in chosen else LANGUAGE if language else NETWORKS
    size = "tiny" if "smoke" in chosen else "small"
    _learn_from_each_other(config, networks, size, answers="live" if language else "table")
    if language:
        _language(config)
    if language and "smoke" not in chosen:
        _learnable(config, generated=config.task.source == "grammar")
    return config.lock()


def _learn_from_each_other(config: ConfigDict, networks: dict[str, str], size: str, *, answers: str) -> None:
    """Add fits `x` and `x_peer` on labels, and `x_from_y` on the outputs of `y` (of `x_peer` if y is x)."""
    config.title = "Which architecture teaches which: agreement, every pair"
    config.models, config.fits, config.grid = fields(), fields(), fields()
    config.properties = ("accuracy", "calibration", "fidelity")
    for name, network in networks.items():
        config.models[name] = model(f"{network}_{size}", size="hidden_size" if network == "lstm" else "width")
        if size == "small":  # with one layer a UT-seq has no weights to share
            config.models[name].update(_as_wide(network, 32) | {"layers": 2})
    for name in networks:
        config.fits[name] = fit(name, "labels")
        config.fits[f"{name}_peer"] = fit(name, "labels", seeds="peer")
    for student in networks:
        config.grid[student] = fields(alone=student)
        for teacher in networks:
            asked = f"{teacher}_peer" if teacher == student else teacher
            config.fits[f"{student}_from_{teacher}"] = fit(student, "kd", teacher=asked, answers=answers)
            config.grid[student][teacher] = f"{student}_from_{teacher}"
    config.roles = fields(
        teacher="lstm", alone="transformer", self="transformer_from_transformer", distilled="transformer_from_lstm"
    )
    config.published = PUBLISHED


def _as_wide(network: str, size: int) -> dict[str, int]:
    """Return `size` as the width of words and units, so that no two networks differ in width."""
    return {"embedding_size": size, "hidden_size": size} if network == "lstm" else {"width": size}


def _language(config: ConfigDict) -> None:
    """Turn the networks into language models, with a loss over all words except padding."""
    config.title = "Which language model teaches which: agreement, every pair"
    config.task.setup = "language_model"
    for loss in config.losses.values():
        for term in loss.values():
            term.where = "batch.mask"
    for name in LANGUAGE.keys() & config.models.keys():  # the small ones stay at 32 (smoke: 16)
        size = 64 if config.models[name].preset.endswith("small") else 32
        config.models[name].update(_as_wide(name, size))
    config.properties = ("accuracy", "perplexity", "calibration", "fidelity")
    if config.train.buckets:
        config.train.buckets = (12, 20)
    config.published = PUBLISHED_LANGUAGE


def _learnable(config: ConfigDict, *, generated: bool) -> None:
    """Set a recipe by which language models learn agreement; one LSTM's validation perplexity chose the rate."""
    config.train.update(steps=2_000 if generated else 1_000, learning_rate=4e-3)
    for name, fields_of in config.models.items() if generated else ():
        rates = (
            ("dropout", "input_dropout") if "lstm" in name else ("dropout", "embedding_dropout", "attention_dropout")
        )
        # With dropout an LSTM is at chance after 4,000 steps, on the validation set too.
        fields_of.update(dict.fromkeys(rates, 0.0))


def _grid(names: tuple[str, ...], rows: dict[str, tuple[float, ...]]) -> dict[str, dict[str, float]]:
    """Convert {student: values in the order alone, *names} to {student: {column: value}}."""
    return {student: dict(zip(("alone", *names), values, strict=True)) for student, values in rows.items()}


CLASSIFIERS = ("lstm", "ut_seq", "transformer_seq", "transformer")
PUBLISHED = ConfigDict(
    {
        "source": "Abnar, Dehghani & Zuidema 2020 (arXiv 2006.00555), classification",
        "note": "Linzen et al. 2016, published sizes; A-accuracy from logs, the rest off figures; ECE of 10⁶ bins",
        "grid": {
            "mu-accuracy": _grid(
                CLASSIFIERS,
                {
                    "transformer": (0.954, 0.960, 0.957, 0.956, 0.956),
                    "transformer_seq": (0.964, 0.972, 0.968, 0.963, 0.960),
                    "ut_seq": (0.969, 0.975, 0.969, 0.964, 0.961),
                    "lstm": (0.977, 0.976, 0.974, 0.969, 0.968),
                },
            ),
            "ece": _grid(
                CLASSIFIERS,
                {
                    "transformer": (0.055, 0.048, 0.050, 0.055, 0.054),
                    "transformer_seq": (0.045, 0.036, 0.042, 0.051, 0.053),
                    "ut_seq": (0.037, 0.034, 0.041, 0.053, 0.053),
                    "lstm": (0.028, 0.034, 0.039, 0.052, 0.050),
                },
            ),
            "A-accuracy": {
                "transformer": {"alone": 0.717, "lstm": 0.756, "transformer": 0.726},
                "ut_seq": {"alone": 0.807, "lstm": 0.845, "ut_seq": 0.804},
                "lstm": {"alone": 0.872, "lstm": 0.829},
            },
        },
        "rows": {},
    },
    sort_keys=False,
)
PUBLISHED_LANGUAGE = ConfigDict(
    {
        "source": "Abnar, Dehghani & Zuidema 2020 (arXiv 2006.00555), language models, public result sheets",
        "note": "Linzen et al. 2016, published sizes; perplexities read off figures, middle of the range",
        "grid": {
            "A-accuracy": _grid(
                tuple(SIZES),
                {
                    "lstm": (0.9350, 0.9275, 0.9310, 0.9083, 0.9257),
                    "small_lstm": (0.9335, 0.9224, 0.9272, 0.8984, 0.9157),
                    "transformer": (0.9127, 0.9296, 0.9316, 0.8956, 0.9195),
                    "small_transformer": (0.9254, 0.9201, 0.9233, 0.8827, 0.9131),
                },
            ),
            "perplexity": {
                "lstm": {"alone": 55.9},
                "small_lstm": {"alone": 58.7},
                "transformer": {"alone": 57.5},
                "small_transformer": {"alone": 55.8},
            },
        },
        "rows": {},
    },
    sort_keys=False,
)
