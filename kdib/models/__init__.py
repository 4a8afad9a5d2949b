"""Architectures as pure functions. No other package of kdib imports flax; here only `build` does."""

from kdib.models.own import is_own
from kdib.models.presets import PRESETS, build, known_fields

__all__ = ["PRESETS", "build", "is_own", "known_fields"]
