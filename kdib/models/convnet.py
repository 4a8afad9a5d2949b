"""Convolutional networks for images: plain, with maxout, and residual networks for small images."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdib.models.base import Batch, Outputs
from kdib.models.convolution import convolve
from kdib.models.kernels import Dropout
from kdib.models.mlp import he_normal, norm, pixels


class CNN(nn.Module):
    """image [B, H, W, C] -> logits [B, K]: 3x3 convolutions with batch normalisation and ReLU, then a global mean.

    `downsampling` is "none" (padding keeps the image size), "pool" (2x2 max-pooling after every layer except the last,
    dropping a leftover row or column), or "stride" (stride 2 in every layer except the first). `padding` is "zero" or
    "circular". With "circular" and without downsampling, the logits are invariant to cyclic shifts of the image.

    Hidden: "conv1", "conv2", ... [B, H', W', channels] before max-pooling; "pool" [B, channels], the mean over all
    positions before dropout; and "penultimate", the same as "pool".

    Reference: CNN_1 and CNN_2 of Wong, Fermin, Zheng, Park & Wang's poster. It does not give kernel size, bias or
    downsampling. 3x3 kernels with bias reproduce its parameter counts, which include the scales and offsets of the
    normalisation. The initialization is our choice, as in MLP.
    """

    num_classes: int
    image_shape: tuple[int, int, int]
    channels: tuple[int, ...]
    downsampling: str
    padding: str
    dropout: float

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Apply the layers in order."""
        x = pixels(batch, self.image_shape)
        hidden = {}
        for i, features in enumerate(self.channels, start=1):
            stride = 2 if self.downsampling == "stride" and i > 1 else 1
            x = Convolution(features, stride=stride, padding=self.padding, name=f"conv{i}")(x)
            x = nn.relu(norm(f"norm{i}", train)(x))
            hidden[f"conv{i}"] = x
            if self.downsampling == "pool" and i < len(self.channels):
                x = max_pool(x, 2)
        return _classified(self.num_classes, self.dropout, hidden, x, train)


class MaxoutCNN(nn.Module):
    """image [B, H, W, C] -> logits [B, K]: 3x3 convolutions with maxout and without padding, then a global mean.

    Layer i applies `channels[i]` filters and `maxout` to units[i] channels, each the maximum of channels[i] / units[i]
    filters. Batch normalisation, ReLU, max-pooling of pool[i] x pool[i] and dropout follow. Hidden: as in CNN, except
    that the mean "pool" comes after the last dropout.

    Reference: the CNN of Abnar, Dehghani & Zuidema (2020); maxout by Goodfellow et al. (2013).
    """

    num_classes: int
    image_shape: tuple[int, int, int]
    channels: tuple[int, ...]
    units: tuple[int, ...]
    pool: tuple[int, ...]
    dropout: float

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Apply the layers in order."""
        x = pixels(batch, self.image_shape)
        hidden = {}
        for i, (features, units, pool) in enumerate(zip(self.channels, self.units, self.pool, strict=True), start=1):
            x = maxout(Convolution(features, padding="none", name=f"conv{i}")(x), units)
            x = nn.relu(norm(f"norm{i}", train)(x))
            hidden[f"conv{i}"] = x
            x = Dropout(self.dropout)(max_pool(x, pool), train=train)
        return _classified(self.num_classes, 0.0, hidden, x, train)


class ResNet(nn.Module):
    """image [B, H, W, C] -> logits [B, K]: residual blocks of two 3x3 convolutions, in stages of `channels`.

    The first block of every stage except the first has stride 2. Where a block changes the shape, its shortcut is a
    1x1 convolution with batch normalisation. Three stages of n blocks have 6 n + 2 layers. Hidden: "stem", "block1",
    "block2", ... [B, H', W', channels] after ReLU; "pool" [B, channels], the mean over all positions; and
    "penultimate", the same as "pool".

    Reference: He, Zhang, Ren & Sun (2016), the networks for CIFAR-10. Their shortcuts have no parameters (75,290 and
    269,722 parameters for 8 and 20 layers and 10 classes). The 1x1 convolutions are those of their networks for
    ImageNet and of common distillation code; with them the counts are 78,042 and 272,474.
    """

    num_classes: int
    image_shape: tuple[int, int, int]
    channels: tuple[int, ...]
    blocks: int

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Apply the stem, the stages and the classifier."""
        x = Convolution(self.channels[0], bias=False, name="stem")(pixels(batch, self.image_shape))
        x = nn.relu(norm("stem_norm", train)(x))
        hidden = {"stem": x}
        for stage, features in enumerate(self.channels):
            for n in range(self.blocks):
                name = f"block{stage * self.blocks + n + 1}"
                x = Block(features, stride=2 if stage and not n else 1, name=name)(x, train=train)
                hidden[name] = x
        return _classified(self.num_classes, 0.0, hidden, x, train)


class Block(nn.Module):
    """x [B, H, W, C] -> [B, H / stride, W / stride, features]."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Add two convolutions to the shortcut."""
        y = Convolution(self.features, stride=self.stride, bias=False, name="conv1")(x)
        y = nn.relu(norm("norm1", train)(y))
        self.sow("intermediates", "inner", y)
        y = norm("norm2", train)(Convolution(self.features, bias=False, name="conv2")(y))
        if x.shape != y.shape:
            x = Convolution(self.features, size=1, stride=self.stride, padding="none", bias=False, name="shortcut")(x)
            x = norm("shortcut_norm", train)(x)
        return nn.relu(x + y)


class Convolution(nn.Module):
    """x [B, H, W, C] -> [B, H', W', features]: a convolution with filters of size x size.

    `padding` is "zero" or "circular", with (size - 1) / 2 pixels on every side, or "none".
    """

    features: int
    size: int = 3
    stride: int = 1
    padding: str = "zero"
    bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Pad x and correlate it with the filters."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel_IxJxCxK = self.param("kernel", he_normal, shape)
        edge = 0 if self.padding == "none" else self.size // 2
        if self.padding == "circular":
            x, edge = jnp.pad(x, ((0, 0), (edge, edge), (edge, edge), (0, 0)), mode="wrap"), 0
        _check_size(x, self.size - 2 * edge, "a convolution")
        y = convolve(x, kernel_IxJxCxK, self.stride, edge)
        if not self.bias:
            return y
        return y + self.param("bias", nn.initializers.zeros, (self.features,))[None, None, None]


def max_pool(x_NxHxWxC: jax.Array, size: int) -> jax.Array:
    """Max-pooling over windows of size x size; leftover rows and columns are dropped.

    The forward pass is a reshape and a maximum, because XLA:CPU is slow at the derivative of `reduce_window`. The
    derivative of a maximum over axes is slow too, so the derivative is that of pairwise maxima over the positions of a
    window, in order. Where two values are equal, each of these maxima halves the gradient.
    """
    if size == 1:
        return x_NxHxWxC
    _check_size(x_NxHxWxC, size, "pooling")
    height, width = (length // size * size for length in x_NxHxWxC.shape[1:3])
    return _largest(x_NxHxWxC[:, :height, :width], size)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _largest(x_NxHxWxC: jax.Array, size: int) -> jax.Array:
    n, height, width, channels = x_NxHxWxC.shape
    return x_NxHxWxC.reshape(n, height // size, size, width // size, size, channels).max(axis=(2, 4))


@_largest.defjvp
def _largest_jvp(size: int, primals, tangents):
    def of_places(x_NxHxWxC):
        places = [x_NxHxWxC[:, i::size, j::size] for i in range(size) for j in range(size)]
        return functools.reduce(jnp.maximum, places)

    return jax.jvp(of_places, primals, tangents)


def _check_size(x_NxHxWxC: jax.Array, least: int, what: str) -> None:
    _, height, width, _ = x_NxHxWxC.shape
    if min(height, width) < least:
        raise ValueError(f"images of {height} x {width} are too small for {what} of size {least}: see image_shape")


def maxout(x: jax.Array, units: int) -> jax.Array:
    """[..., C] -> [..., units]: unit u is the maximum of the channels u, u + units, u + 2 units, ...

    The grouping of the channels is arbitrary. Units do not take adjacent channels, because a maximum over neighbours is
    slow on a CPU: a network with adjacent pairs in every layer took 2.8 times as long.
    """
    return functools.reduce(jnp.maximum, jnp.split(x, x.shape[-1] // units, axis=-1))


def _classified(num_classes: int, dropout: float, hidden, x_NxHxWxC: jax.Array, train: bool) -> Outputs:
    """The global mean and the logits. Call it within a compact method of a module."""
    pool_BxD = x_NxHxWxC.mean(axis=(1, 2))
    logits_BxK = nn.Dense(num_classes, name="head")(Dropout(dropout)(pool_BxD, train=train))
    return Outputs(logits_BxK.astype(jnp.float32), {**hidden, "pool": pool_BxD, "penultimate": pool_BxD})
