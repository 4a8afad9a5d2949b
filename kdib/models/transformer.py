"""Transformers, bidirectional with a CLS token or causal, that classify a sequence or predict every next token."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdib.models.base import Batch, Outputs
from kdib.models.kernels import Dropout, over_rows

MASKED = -1e30  # finite, so that a row without any real key gives finite weights


class Transformer(nn.Module):
    """tokens [B, L] and length [B] -> logits [B, K].

    `causal=False` prepends a learned CLS token, lets every position attend to all real ones, and reads the CLS token.
    `causal=True` lets a position attend to itself and earlier ones, and reads position length - 1. The last block is
    evaluated only at the position that is read, which leaves the logits unchanged and halves the cost of a block when
    there are two. `shared=True` applies one block `layers` times: the recursion of a Universal Transformer, without its
    adaptive halting and step embedding.

    With `num_classes` None a causal network is a language model with tied embedding: logits [B, L, V] of the next token
    at every position are the products of the word embeddings and the normalised states.

    Architecture: pre-norm, learned positions, an MLP of width 4D with a tanh GELU, weights N(0, init_scale^2) and zero
    biases. Hidden: "embedding" [B, L, D] (word + position); "block0", ... [B, L, D], without CLS and zero at padding,
    except the last block [B, D]; and "penultimate" [B, D] after the last normalisation. In a language model the last
    block and "penultimate" are [B, L, D]. Raises ValueError if L exceeds `max_length`, if the heads do not divide the
    width, or for a bidirectional language model.

    Reference: Abnar, Dehghani & Zuidema (2020), Transformer and Transformer-seq; Vaswani et al. (2017); Devlin et al.
    (2019); Dehghani et al. (2019), Universal Transformers.
    """

    vocab_size: int
    num_classes: int | None
    max_length: int
    causal: bool
    shared: bool
    width: int
    layers: int
    heads: int
    embedding_dropout: float
    dropout: float
    attention_dropout: float
    init_scale: float

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Embed the tokens, run the blocks, and read one position or all of them."""
        if self.num_classes is None and not self.causal:
            raise ValueError("a language model must be causal: a bidirectional network sees the token that it predicts")
        length_B, prefix = batch["length"], 0 if self.causal else 1
        embed = Embedding(self.vocab_size, self.max_length, self.width, self.init_scale, name="embedding")
        x_BxTxD = embedding_BxLxD = embed(batch["tokens"])
        if not self.causal:
            cls_D = self.param("cls", nn.initializers.normal(self.init_scale), (self.width,))
            cls_Bx1xD = jnp.broadcast_to(cls_D[None, None, :], (len(length_B), 1, self.width))
            x_BxTxD = jnp.concatenate([cls_Bx1xD, x_BxTxD], axis=1)
        x_BxTxD = Dropout(self.embedding_dropout)(x_BxTxD, train=train)

        visible_BxQxT = attention_mask(length_B + prefix, x_BxTxD.shape[1], causal=self.causal)
        real_BxLx1 = (jnp.arange(embedding_BxLxD.shape[1])[None, :] < length_B[:, None])[:, :, None]
        hidden = {"embedding": jnp.where(real_BxLx1, embedding_BxLxD, 0)}
        for i, block in enumerate(self.blocks()):
            query_BxQxD = x_BxTxD
            if i == self.layers - 1 and self.num_classes is not None:
                read_B = jnp.maximum(length_B - 1, 0) if self.causal else jnp.zeros_like(length_B)
                query_BxQxD, visible_BxQxT = read(query_BxQxD, read_B), read(visible_BxQxT, read_B)
            x_BxTxD = block(query_BxQxD, x_BxTxD, visible_BxQxT, train=train)
            if i < self.layers - 1 or self.num_classes is None:
                hidden[f"block{i}"] = jnp.where(real_BxLx1, x_BxTxD[:, prefix:], 0)

        norm = nn.LayerNorm(name="norm")
        if self.num_classes is None:
            penultimate_BxLxD = jnp.where(real_BxLx1, norm(x_BxTxD), 0)
            logits_BxLxV = embed.attend(penultimate_BxLxD)
            return Outputs(logits_BxLxV.astype(jnp.float32), {**hidden, "penultimate": penultimate_BxLxD})
        x_BxD = hidden[f"block{self.layers - 1}"] = x_BxTxD[:, 0]
        penultimate_BxD = norm(x_BxD)
        logits_BxK = dense(self.num_classes, self.init_scale, "head")(penultimate_BxD)
        return Outputs(logits_BxK.astype(jnp.float32), {**hidden, "penultimate": penultimate_BxD})

    def blocks(self) -> list["Block"]:
        """One block per layer, the same block for all layers if `shared`."""
        rates = self.dropout, self.attention_dropout
        if self.shared:
            return [Block(self.heads, *rates, self.init_scale, name="block")] * self.layers
        return [Block(self.heads, *rates, self.init_scale, name=f"block{i}") for i in range(self.layers)]


class Embedding(nn.Module):
    """tokens [B, L] -> word + position [B, L, D]; NaN for a token outside the vocabulary, which training reports."""

    vocab_size: int
    max_length: int
    width: int
    init_scale: float

    def setup(self):
        """Create one row per word and one per position."""
        normal = nn.initializers.normal(self.init_scale)
        self.word_VxD = self.param("embedding", normal, (self.vocab_size, self.width))
        self.position_MxD = self.param("position", normal, (self.max_length, self.width))

    def __call__(self, tokens_BxL: jax.Array) -> jax.Array:
        """Look up the words and add the first L positions."""
        length = tokens_BxL.shape[1]
        if length > self.max_length:
            raise ValueError(f"max_length is {self.max_length}, got tokens of length {length}")
        return jnp.take(self.word_VxD, tokens_BxL, axis=0) + self.position_MxD[None, :length]

    def attend(self, x_BxLxD: jax.Array) -> jax.Array:
        """The products [B, L, V] with the embedding of every word."""
        return over_rows(x_BxLxD, self.word_VxD.T)


class Block(nn.Module):
    """query [B, Q, D], context [B, T, D], visible [B, Q, T] -> [B, Q, D]: pre-norm attention, then the MLP."""

    heads: int
    dropout: float
    attention_dropout: float
    init_scale: float

    @nn.compact
    def __call__(self, query_BxQxD, context_BxTxD, visible_BxQxT, *, train: bool) -> jax.Array:
        """The residual stream of the query after this block."""
        width = context_BxTxD.shape[-1]
        norm = nn.LayerNorm(name="attention_norm")
        attend = Attention(self.heads, self.attention_dropout, self.init_scale, name="attention")
        y_BxQxD = attend(norm(query_BxQxD), norm(context_BxTxD), visible_BxQxT, train=train)
        x_BxQxD = query_BxQxD + Dropout(self.dropout)(y_BxQxD, train=train)

        y_BxQxD = nn.LayerNorm(name="mlp_norm")(x_BxQxD)
        y_BxQxF = nn.gelu(dense(4 * width, self.init_scale, "expand")(y_BxQxD))
        self.sow("intermediates", "units", y_BxQxF)
        y_BxQxD = dense(width, self.init_scale, "contract")(y_BxQxF)
        return x_BxQxD + Dropout(self.dropout)(y_BxQxD, train=train)


class Attention(nn.Module):
    """Scaled dot-product attention with H heads, in the head-major layout that XLA:CPU multiplies fastest."""

    heads: int
    dropout: float
    init_scale: float

    @nn.compact
    def __call__(self, query_BxQxD, context_BxTxD, visible_BxQxT, *, train: bool) -> jax.Array:
        """For every query, the weighted sum of the values that it may see."""
        width = context_BxTxD.shape[-1]
        if width % self.heads:
            raise ValueError(f"heads must divide width, got heads={self.heads}, width={width}")
        q_BxHxQxK = self.split(dense(width, self.init_scale, "query")(query_BxQxD))
        k_BxHxTxK = self.split(dense(width, self.init_scale, "key")(context_BxTxD))
        v_BxHxTxK = self.split(dense(width, self.init_scale, "value")(context_BxTxD))
        scores_BxHxQxT = jnp.einsum("bhqk,bhtk->bhqt", q_BxHxQxK, k_BxHxTxK) * (width // self.heads) ** -0.5
        weights_BxHxQxT = nn.softmax(jnp.where(visible_BxQxT[:, None], scores_BxHxQxT, MASKED))
        weights_BxHxQxT = Dropout(self.dropout)(weights_BxHxQxT, train=train)
        mixed_BxQxHxK = jnp.einsum("bhqt,bhtk->bqhk", weights_BxHxQxT, v_BxHxTxK)
        mixed_BxQxD = mixed_BxQxHxK.reshape(query_BxQxD.shape)
        self.sow("intermediates", "heads", mixed_BxQxD)
        return dense(width, self.init_scale, "out")(mixed_BxQxD)

    def split(self, x_BxTxD: jax.Array) -> jax.Array:
        """[B, T, D] -> [B, H, T, D / H]."""
        return x_BxTxD.reshape(*x_BxTxD.shape[:2], self.heads, -1).swapaxes(1, 2)


def dense(features: int, init_scale: float, name: str) -> nn.Dense:
    """A linear layer with normal weights and zero bias."""
    return nn.Dense(features, kernel_init=nn.initializers.normal(init_scale), name=name, dot_general=over_rows)


def attention_mask(length_B: jax.Array, size: int, *, causal: bool) -> jax.Array:
    """visible [B, Q, T]: True where the key is not padding and, in a causal network, not later than the query."""
    position_T = jnp.arange(size)
    real_Bx1xT = (position_T[None, :] < length_B[:, None])[:, None, :]
    allowed_QxT = position_T[:, None] >= position_T[None, :] if causal else jnp.ones((size, size), bool)
    return real_Bx1xT & allowed_QxT[None]


def read(x_BxTxD: jax.Array, position_B: jax.Array) -> jax.Array:
    """Select one position of every sequence and keep its axis: [B, 1, D]."""
    return jnp.take_along_axis(x_BxTxD, position_B[:, None, None], axis=1)
