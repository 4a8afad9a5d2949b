"""Architectures as pure functions. Nothing else in kdib imports flax, and only `build` does so here."""

from kdib.models.own import is_own
from kdib.models.presets import PRESETS, build, known_fields

__all__ = ["PRESETS", "build", "is_own", "known_fields"]
