"""Heads: models whose batch is the context of a loss, trained with the student and kept out of it.

A step runs them after the student and puts their outputs into the context; snapshots do not hold them.
"""

import functools
import math

import flax.linen as nn

from kdib.losses import PROJECTORS, resolve
from kdib.models.base import Batch, Model, Outputs, from_linen
from kdib.models.convnet import Convolution
from kdib.models.mlp import norm


@functools.cache
def projector(kind: str, student_path: str, teacher_path: str) -> Model:
    """A regressor of a teacher's layer from a student's: what a hint compares in place of the student's layer itself.

    Its batch is {"student": Outputs, "teacher": Outputs, "batch": ...}; the paths lead into it, such as
    "student.hidden.hidden2". The answer is Outputs(logits, {}) whose logits have the shape of the teacher's layer. No
    gradient reaches the teacher, of which only the shape is read. Equal arguments give the same object.

    "linear": a linear layer on the last axis, of vectors [N, D] or of maps [N, H, W, C] (a 1x1 convolution); where the
    shapes differ in more than the last axis, from all values of an example to all values, such as from an MLP's layer
    [N, D] to a CNN's maps, with D x H x W x C weights. "conv": a 3x3 convolution with padding, batch norm and ReLU, of
    maps, whose answers are not negative: for a teacher's layer after its own ReLU. In training the batch norm sees
    every example, those too that a term's mask leaves out.

    Raises:
      ValueError: for an unknown kind; by `init` and `apply`, for a path that leads nowhere, with what there is, and for
        layers that are no maps of one size where these are needed, or of other numbers of examples.

    Reference: Romero et al., "FitNets: Hints for Thin Deep Nets", 2015, section 2.2 (https://arxiv.org/abs/1412.6550);
    the linear one as in Ojha et al., 2023 (https://arxiv.org/abs/2205.16004).
    """
    if kind not in PROJECTORS:
        raise ValueError(f"unknown projector {kind!r}; known: {', '.join(PROJECTORS)}")
    return from_linen(Projector(kind, student_path, teacher_path))


class Projector(nn.Module):
    """The context of a loss -> Outputs whose logits are the student's layer in the shape of the teacher's."""

    kind: str
    student_path: str
    teacher_path: str

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Look both layers up, check their shapes, map the student's."""
        features = resolve(batch, self.student_path)
        shape = resolve(batch, self.teacher_path).shape
        self._check(features.shape, shape)
        if self.kind == "conv":
            y_NxHxWxK = Convolution(shape[-1], bias=False, name="conv")(features)
            return Outputs(nn.relu(norm("norm", train)(y_NxHxWxK)), {})
        if features.shape[:-1] == shape[:-1]:
            return Outputs(nn.Dense(shape[-1], name="linear")(features), {})
        values_NxD = features.reshape(len(features), -1)
        return Outputs(nn.Dense(math.prod(shape[1:]), name="linear")(values_NxD).reshape(shape), {})

    def _check(self, student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
        found = f"got {self.student_path} {list(student)} and {self.teacher_path} {list(teacher)}"
        if min(len(student), len(teacher)) < 2 or student[0] != teacher[0]:
            raise ValueError(f"projector={self.kind!r} needs layers [N, ...] of the same examples, {found}")
        if self.kind == "conv" and not len(student) == len(teacher) == 4:
            raise ValueError(f"projector='conv' needs maps [N, H, W, C], {found}; of vectors take projector='linear'")
        if self.kind == "conv" and student[:-1] != teacher[:-1]:
            raise ValueError(f"projector='conv' changes the last axis only, {found}; projector='linear' takes both")
