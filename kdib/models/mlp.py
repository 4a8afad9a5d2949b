"""Multilayer perceptrons on pictures."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdib.models.base import Batch, Outputs
from kdib.models.kernels import Dropout

he_normal = nn.initializers.he_normal()


class MLP(nn.Module):
    """image [B, H, W, C] -> logits [B, K]: the flattened picture through layers of `widths`, each with ReLU, dropout.

    With `batch_norm` ReLU is followed by batch normalisation. Hidden: "hidden1", "hidden2", ... [B, width] as they come
    before dropout, which would bias a loss that matches them, and "penultimate", the last of them.

    Reference: MLP_1 and MLP_2 of Wong, Fermin, Zheng, Park & Wang's poster; with batch normalisation the MLP of Abnar,
    Dehghani & Zuidema (2020). Initial values are our choice, as theirs are not published: He et al. (2015) before a
    ReLU, LeCun for the logits, no bias.
    """

    num_classes: int
    image_shape: tuple[int, int, int]
    widths: tuple[int, ...]
    dropout: float
    batch_norm: bool

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """One layer after another."""
        x_BxD = pixels(batch, self.image_shape).reshape(len(batch["image"]), -1)
        hidden = {}
        for i, width in enumerate(self.widths, start=1):
            x_BxD = nn.relu(nn.Dense(width, kernel_init=he_normal, name=f"layer{i}")(x_BxD))
            if self.batch_norm:
                x_BxD = norm(f"norm{i}", train)(x_BxD)
            hidden[f"hidden{i}"] = x_BxD
            x_BxD = Dropout(self.dropout)(x_BxD, train=train)
        logits_BxK = nn.Dense(self.num_classes, name="head")(x_BxD)
        return Outputs(logits_BxK.astype(jnp.float32), {**hidden, "penultimate": hidden[f"hidden{len(self.widths)}"]})


def pixels(batch: Batch, image_shape: tuple[int, int, int]) -> jax.Array:
    """batch["image"] [B, H, W, C] as floating numbers in [0, 1].

    Raises:
      ValueError: for pictures of another shape than `image_shape`, or neither uint8 nor floating.
    """
    image = batch["image"]
    if image.shape[1:] != tuple(image_shape):
        raise ValueError(f"the network was built with image_shape={tuple(image_shape)}, got images {image.shape}")
    if image.dtype == jnp.uint8:
        return image.astype(jnp.float32) / 255
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise ValueError(f"expected images of uint8 (0 to 255) or floating (0 to 1), got {image.dtype}")
    return image


def norm(name: str, train: bool) -> nn.BatchNorm:
    """Batch normalisation with PyTorch's defaults: the running statistics take a tenth of each batch's, epsilon 1e-5.

    Unlike PyTorch's, the running variance is the batch's own, not N/(N-1) times that.
    """
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name=name)
