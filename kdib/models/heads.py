"""Heads: models whose batch is the context of a loss, trained with the student and kept out of it.

A step runs them after the student and puts their outputs into the context; snapshots do not hold them.
"""

import functools

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

    "linear": a linear layer on the last axis, of vectors [N, D] or of maps [N, H, W, C] (a 1x1 convolution). "conv": a
    3x3 convolution with padding, batch norm and ReLU, of maps, whose answers are not negative: for a teacher's layer
    after its own ReLU. In training the batch norm sees every example, those too that a term's mask leaves out.

    Raises:
      ValueError: for an unknown kind; by `init` and `apply`, for a path that leads nowhere, with what there is, and for
        layers whose shapes differ in more than the last axis, or are no maps where maps are needed.

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
        width = self._width(features.shape, resolve(batch, self.teacher_path).shape)
        if self.kind == "linear":
            return Outputs(nn.Dense(width, name="linear")(features), {})
        y_NxHxWxK = Convolution(width, bias=False, name="conv")(features)
        return Outputs(nn.relu(norm("norm", train)(y_NxHxWxK)), {})

    def _width(self, student: tuple[int, ...], teacher: tuple[int, ...]) -> int:
        found = f"got {self.student_path} {list(student)} and {self.teacher_path} {list(teacher)}"
        if self.kind == "conv" and not len(student) == len(teacher) == 4:
            raise ValueError(f"projector='conv' needs maps [N, H, W, C], {found}; of vectors take projector='linear'")
        if min(len(student), len(teacher)) < 2 or student[:-1] != teacher[:-1]:
            raise ValueError(
                f"projector={self.kind!r} changes the last axis only, {found}; choose layers alike in the others"
            )
        return teacher[-1]
