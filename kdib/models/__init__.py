"""Architectures as pure functions. Nothing else in kdib imports flax, and only `build` does so here."""

from kdib.models.presets import PRESETS, build, known_fields

__all__ = ["PRESETS", "build", "known_fields"]
