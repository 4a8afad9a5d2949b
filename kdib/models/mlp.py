"""Multilayer perceptrons for images."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdib.models.base import Batch, Outputs
from kdib.models.kernels import Dropout

he_normal = nn.initializers.he_normal()


class MLP(nn.Module):
    """image [B, H, W, C] -> logits [B, K]: flatten the image, then apply layers of `widths` with ReLU and dropout.

    With `batch_norm`, batch normalisation follows each ReLU. Hidden: "hidden1", "hidden2", ... [B, width], and
    "penultimate", which is the last of them. They are taken before dropout, which would bias a loss that matches them.

    Reference: MLP_1 and MLP_2 of Wong, Fermin, Zheng, Park & Wang's poster; with batch normalisation the MLP of Abnar,
    Dehghani & Zuidema (2020). Their initialization is not published. Ours is He et al. (2015) before a ReLU and LeCun
    for the logits, with zero biases.
    """

    num_classes: int
    image_shape: tuple[int, int, int]
    widths: tuple[int, ...]
    dropout: float
    batch_norm: bool

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Apply the layers in order."""
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
    """The images batch["image"] [B, H, W, C] as floating-point values in [0, 1].

    Raises:
      ValueError: if the images do not have `image_shape`, or are neither uint8 nor floating point.
    """
    image = batch["image"]
    if image.shape[1:] != tuple(image_shape):
        raise ValueError(f"the network was built with image_shape={tuple(image_shape)}, got images {image.shape}")
    if image.dtype == jnp.uint8:
        return image.astype(jnp.float32) / 255
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise ValueError(f"expected images of uint8 (0 to 255) or floating point (0 to 1), got {image.dtype}")
    return image


def norm(name: str, train: bool) -> nn.BatchNorm:
    """Batch normalisation with PyTorch's defaults: momentum 0.1 for the running statistics (flax: 0.9), epsilon 1e-5.

    Unlike PyTorch, the running variance averages the biased batch variance, without the factor N / (N - 1).
    """
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name=name)
