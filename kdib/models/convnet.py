"""Convolutional networks on pictures: plain ones, the one with maxout, and residual ones for small pictures."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdib.models.base import Batch, Outputs
from kdib.models.convolution import convolve
from kdib.models.kernels import Dropout
from kdib.models.mlp import he_normal, norm, pixels


class CNN(nn.Module):
    """image [B, H, W, C] -> logits [B, K]: 3x3 convolutions, each with batch normalisation and ReLU, then a mean.

    The picture keeps its size (padded by one), or is made smaller by `downsampling`: "pool", a 2x2 max-pooling after
    every layer but the last (a row or column left over is dropped); "stride", a stride of 2 in every layer but the
    first. `padding` is "zero", or "circular": then, without downsampling, a picture that is shifted around the edge
    has the same logits. Hidden: "conv1", "conv2", ... [B, H', W', channels] before pooling, "pool" [B, channels] after
    the mean over all positions and before dropout, and "penultimate", the same.

    Reference: CNN_1 and CNN_2 of Wong, Fermin, Zheng, Park & Wang's poster. Kernel size, bias and downsampling are not
    published: 3x3 with bias has the published parameter counts, in which the scales and offsets of the normalisation
    are counted. Initial values as in MLP are our choice.
    """

    num_classes: int
    image_shape: tuple[int, int, int]
    channels: tuple[int, ...]
    downsampling: str
    padding: str
    dropout: float

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """One layer after another."""
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
    """image [B, H, W, C] -> logits [B, K]: 3x3 convolutions without padding, each with maxout, and so on.

    Layer i has `channels[i]` filters, of which maxout keeps the largest of every channels[i] / units[i] (`maxout`);
    then batch normalisation, ReLU, max-pooling of pool[i] x pool[i], dropout. Hidden as in CNN, "penultimate" being
    "pool".

    Reference: the CNN of Abnar, Dehghani & Zuidema (2020); maxout of Goodfellow et al. (2013).
    """

    num_classes: int
    image_shape: tuple[int, int, int]
    channels: tuple[int, ...]
    units: tuple[int, ...]
    pool: tuple[int, ...]
    dropout: float

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """One layer after another."""
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

    The first block of every stage but the first has a stride of 2, and a 1x1 convolution with batch normalisation
    where it changes the shape. 6 n + 2 layers for n blocks in each of three stages. Hidden: "stem", "block1", "block2",
    ... [B, H', W', channels] after ReLU, "pool" [B, channels] after the mean over all positions, and "penultimate", the
    same.

    Reference: He, Zhang, Ren & Sun (2016), the networks for CIFAR-10. Theirs change the shape without parameters
    (75,290 and 269,722 parameters for 8 and 20 layers, 10 classes); the 1x1 convolutions, which make these 78,042 and
    272,474, are those of the networks for ImageNet and of the usual code for distillation.
    """

    num_classes: int
    image_shape: tuple[int, int, int]
    channels: tuple[int, ...]
    blocks: int

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Stage after stage."""
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
        """Two convolutions, and the way around them."""
        y = Convolution(self.features, stride=self.stride, bias=False, name="conv1")(x)
        y = nn.relu(norm("norm1", train)(y))
        self.sow("intermediates", "inner", y)
        y = norm("norm2", train)(Convolution(self.features, bias=False, name="conv2")(y))
        if x.shape != y.shape:
            x = Convolution(self.features, size=1, stride=self.stride, padding="none", bias=False, name="shortcut")(x)
            x = norm("shortcut_norm", train)(x)
        return nn.relu(x + y)


class Convolution(nn.Module):
    """x [B, H, W, C] -> [B, H', W', features], by filters of size x size.

    `padding` is "zero" or "circular", (size - 1) / 2 on every side, or "none".
    """

    features: int
    size: int = 3
    stride: int = 1
    padding: str = "zero"
    bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Pad, then correlate."""
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
    """The largest of every size x size positions; rows and columns left over are dropped.

    A reshape, because XLA:CPU is slow at the derivative of a reduce_window; that of a maximum over axes is slow, too,
    so that what is differentiated compares the windows' places. Equal largest values share the gradient, by halves in
    the order of the places.
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
        raise ValueError(f"pictures of {height} x {width} are too small for {what} of {least}: see image_shape")


def maxout(x: jax.Array, units: int) -> jax.Array:
    """[..., C] -> [..., units]: unit u is the largest of the channels u, u + units, u + 2 units, ...

    Which channels are together is only their numbering. Whole blocks of channels, because a maximum over neighbours
    is slow on a CPU: a network with pairs in every layer took 2.8 times as long.
    """
    return functools.reduce(jnp.maximum, jnp.split(x, x.shape[-1] // units, axis=-1))


def _classified(num_classes: int, dropout: float, hidden, x_NxHxWxC: jax.Array, train: bool) -> Outputs:
    """The mean over all positions, and the logits. Called within a module's compact method."""
    pool_BxD = x_NxHxWxC.mean(axis=(1, 2))
    logits_BxK = nn.Dense(num_classes, name="head")(Dropout(dropout)(pool_BxD, train=train))
    return Outputs(logits_BxK.astype(jnp.float32), {**hidden, "pool": pool_BxD, "penultimate": pool_BxD})
