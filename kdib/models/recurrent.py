"""An LSTM that classifies a sequence by its state at the last token, or predicts every next token."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdib.models.base import Batch, Outputs
from kdib.models.kernels import Dropout, lstm_layer, over_rows


class LSTM(nn.Module):
    """tokens [B, L] and length [B] -> logits [B, K], read from the top state at position length - 1.

    With `num_classes` None it is a language model with tied embedding: logits [B, L, V] of the next token at every
    position are the products of the word embeddings and a projection of the state with dropout.

    The recurrence needs no mask: padding comes after the state that is read, so it changes neither that state nor a
    gradient. Hidden: "embedding" [B, L, E]; "block0", "block1", ... [B, L, H] before dropout; both are zero at padding.
    "penultimate" is the top block's, [B, H], or [B, L, H] for a language model. Every dropout except that of the
    projection draws one mask per sequence, shared over time (Gal & Ghahramani, 2016).

    Reference: Abnar, Dehghani & Zuidema (2020), the classification LSTM. Their initialization is not published. Ours:
    embedding N(0, 1/E), input weights Glorot, recurrent weights orthogonal, forget bias 1.
    """

    vocab_size: int
    num_classes: int | None
    embedding_size: int
    hidden_size: int
    layers: int
    input_dropout: float
    dropout: float
    recurrent_dropout: float

    @nn.compact
    def __call__(self, batch: Batch, *, train: bool) -> Outputs:
        """Run every layer over the whole sequence, with time as the leading axis."""
        length_B = batch["length"]
        embed = nn.Embed(self.vocab_size, self.embedding_size, name="embedding")
        embedding_TxBxE = embed(batch["tokens"].T)
        real_TxB = jnp.arange(len(embedding_TxBxE))[:, None] < length_B[None, :]
        hidden = {"embedding": embedding_TxBxE}

        x_TxBxD = Dropout(self.input_dropout, shared=(0,))(embedding_TxBxE, train=train)
        for i in range(self.layers):
            h_TxBxH = Layer(self.hidden_size, self.recurrent_dropout, name=f"layer{i}")(x_TxBxD, train=train)
            hidden[f"block{i}"] = h_TxBxH
            x_TxBxD = Dropout(self.dropout, shared=(0,))(h_TxBxH, train=train)

        # Losses match hidden values before dropout; after it, zeros at random would count as differences.
        hidden = {name: jnp.where(real_TxB[:, :, None], h, 0).swapaxes(0, 1) for name, h in hidden.items()}
        top_BxTxH = hidden[f"block{self.layers - 1}"]
        if self.num_classes is None:
            x_BxTxD = jnp.where(real_TxB[:, :, None], x_TxBxD, 0).swapaxes(0, 1)
            projected_BxTxE = nn.Dense(self.embedding_size, name="projection", dot_general=over_rows)(x_BxTxD)
            logits_BxTxV = over_rows(Dropout(self.dropout)(projected_BxTxE, train=train), embed.embedding.T)
            return Outputs(logits_BxTxV.astype(jnp.float32), {**hidden, "penultimate": top_BxTxH})
        last_B = jnp.maximum(length_B - 1, 0)
        rows_B = jnp.arange(len(last_B))
        logits_BxK = nn.Dense(self.num_classes, name="head")(x_TxBxD[last_B, rows_B])
        return Outputs(logits_BxK.astype(jnp.float32), {**hidden, "penultimate": top_BxTxH[rows_B, last_B]})


class Layer(nn.Module):
    """x [T, B, D] -> hidden states [T, B, H]; 4 (D + H + 1) H parameters."""

    hidden_size: int
    recurrent_dropout: float

    @nn.compact
    def __call__(self, x_TxBxD: jax.Array, *, train: bool) -> jax.Array:
        """Draw the recurrent dropout mask and run the LSTM over time."""
        gates = 4 * self.hidden_size
        input_DxG = self.param("input", nn.initializers.glorot_uniform(), (x_TxBxD.shape[-1], gates))
        recurrent_HxG = self.param("recurrent", nn.initializers.orthogonal(), (self.hidden_size, gates))
        bias_G = self.param("bias", forget_one, (gates,))

        ones_BxH = jnp.ones((x_TxBxD.shape[1], self.hidden_size), x_TxBxD.dtype)
        keep_BxH = Dropout(self.recurrent_dropout)(ones_BxH, train=train)
        return lstm_layer(input_DxG, recurrent_HxG, bias_G, x_TxBxD, keep_BxH)


def forget_one(key: jax.Array, shape: tuple[int], dtype=jnp.float32) -> jax.Array:
    """A bias [4H] that is 1 for the forget gate and 0 elsewhere (Jozefowicz et al., 2015)."""
    del key
    return jnp.repeat(jnp.array([0.0, 1.0, 0.0, 0.0], dtype), shape[0] // 4)
