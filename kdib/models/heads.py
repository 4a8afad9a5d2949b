"""Heads: auxiliary models that map the context of a loss and are trained together with the student.

A training step runs them after the student and adds their outputs to the context. Snapshots do not contain them.
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
    """A regressor from a student's layer to a teacher's; a hint loss compares its output with the teacher's layer.

    Its batch is the context {"student": Outputs, "teacher": Outputs, "batch": ...}. The paths point into the context,
    such as "student.hidden.hidden2". It returns Outputs(logits, {}), where the logits have the shape of the teacher's
    layer. Only the shape of that layer is used, so no gradient reaches the teacher. Equal arguments return the same
    object.

    "linear" is a linear layer on the last axis of vectors [N, D] or maps [N, H, W, C] (a 1x1 convolution). If the
    shapes differ in more than the last axis, it maps all values of an example to all values: from an MLP's layer [N, D]
    to a CNN's maps it has D x H x W x C weights. "conv" is a 3x3 convolution of maps with padding, batch normalisation
    and ReLU. Its output is not negative, so it suits a teacher's layer after ReLU. In training its batch normalisation
    sees every example, including those that the mask of a term leaves out.

    Raises:
      ValueError: for an unknown kind. `init` and `apply` raise it for a path that does not exist, listing the names
        that do, for layers with different numbers of examples, and for layers that "conv" cannot map.

    Reference: Romero et al., "FitNets: Hints for Thin Deep Nets", 2015, section 2.2 (https://arxiv.org/abs/1412.6550);
    the linear projector as in Ojha et al., 2023 (https://arxiv.org/abs/2205.16004).
    """
    if kind not in PROJECTORS:
        raise ValueError(f"unknown projector {kind!r}; known: {', '.join(PROJECTORS)}")
    return from_linen(Projector(kind, student_path, teacher_path))


class Projector(nn.Module):
    """The context of a loss -> Outputs whose logits are the student's layer, mapped to the shape of the teacher's."""

    kind: str
    student_path: str
    teacher_path: str

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Look up both layers, check their shapes, and map the student's."""
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
            raise ValueError(f"projector='conv' needs maps [N, H, W, C], {found}; for vectors use projector='linear'")
        if self.kind == "conv" and student[:-1] != teacher[:-1]:
            raise ValueError(f"projector='conv' changes only the last axis, {found}; use projector='linear' for others")
