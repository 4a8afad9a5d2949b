"""The networks of kdib.models in plain PyTorch, and their training steps in idiomatic eager mode."""

import time
from collections.abc import Callable

import numpy as np
import torch
from cases import LAYERS, LENGTH, VOCAB, WIDTH, Case
from torch import nn
from torch.nn import functional as F

CLIP_NORM, LEARNING_RATE, WEIGHT_DECAY = 1.0, 1e-3, 1e-2


class LSTM(nn.Module):
    """The counterpart of kdib.models.recurrent.LSTM: a classifier (`classes`), or a language model with tied output."""

    def __init__(self, vocab: int, classes: int | None, width: int, layers: int, dropout: float):
        super().__init__()
        self.embedding = nn.Embedding(vocab, width)
        self.lstm = nn.LSTM(width, width, layers, batch_first=True, dropout=dropout)
        self.dropout = nn.Dropout(dropout)
        self.classes = classes
        self.out = nn.Linear(width, classes or width)

    def forward(self, tokens, length):
        """Return logits [B, K] at the last word, or [B, L, V]."""
        states, _ = self.lstm(self.dropout(self.embedding(tokens)))
        if self.classes is None:
            return self.dropout(self.out(self.dropout(states))) @ self.embedding.weight.T
        return self.out(self.dropout(states[torch.arange(len(length)), length - 1]))


class Block(nn.Module):
    """Pre-norm attention and MLP; with `read` only that position is a query."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.rate = heads, dropout
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.query, self.key_value, self.out = (
            nn.Linear(width, width),
            nn.Linear(width, 2 * width),
            nn.Linear(width, width),
        )
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, visible, read: int | None):
        """x [B, T, D], visible [B, 1, Q, T] -> [B, Q, D]."""
        y, x = self.attention_norm(x), x if read is None else x[:, read : read + 1]
        asked = y if read is None else y[:, read : read + 1]
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query(asked), *self.key_value(y).chunk(2, -1))
        )
        rate = self.rate if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, visible, dropout_p=rate)
        x = x + self.dropout(self.out(mixed.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class Transformer(nn.Module):
    """The counterpart of kdib.models.transformer.Transformer: a classifier with CLS token, or a causal language model.

    `read_one` evaluates the classifier's last block only at the CLS token, as kdib does; the idiomatic form does not.
    """

    def __init__(self, vocab, classes, width, layers, dropout, *, max_length, heads=4, read_one=False):
        super().__init__()
        self.classes, self.read_one = classes, read_one
        self.embedding, self.position = nn.Embedding(vocab, width), nn.Parameter(torch.zeros(max_length, width))
        if classes is not None:
            self.cls, self.head = nn.Parameter(torch.zeros(1, 1, width)), nn.Linear(width, classes)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm, self.dropout = nn.LayerNorm(width, eps=1e-6), nn.Dropout(dropout)
        for weight in self.parameters():
            if weight.ndim >= 2:
                nn.init.normal_(weight, std=0.05)

    def forward(self, tokens, length):
        """Return logits [B, K] at the CLS token, or [B, L, V]."""
        x = self.embedding(tokens) + self.position[: tokens.shape[1]]
        if self.classes is not None:
            x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1)
            length = length + 1
        position = torch.arange(x.shape[1])
        visible = (position < length[:, None])[:, None, None, :]
        if self.classes is None:
            visible = visible & (position[:, None] >= position)
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x, visible, 0 if self.read_one and block is self.blocks[-1] else None)
        if self.classes is None:
            return self.norm(x) @ self.embedding.weight.T
        return self.head(self.norm(x[:, 0]))


def of(case: Case, read_one: bool = False) -> nn.Module:
    """Build the network of a case; `read_one` as in Transformer."""
    classes = None if case.language else 2
    if case.network == "lstm":
        return LSTM(VOCAB, classes, WIDTH, LAYERS, case.dropout)
    return Transformer(VOCAB, classes, WIDTH, LAYERS, case.dropout, max_length=LENGTH, read_one=read_one)


def training_step(network: nn.Module, data: dict[str, np.ndarray], batch_size: int, teacher=None) -> Callable:
    """Return a full step, batch after batch of `data`: forward, backward, clip, AdamW.

    `teacher` is None (labels), a network that is evaluated at every step, or stored logits [N, ..., K].
    """
    arrays = {name: torch.from_numpy(values).long() for name, values in data.items()}
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    order, at = torch.randperm(len(arrays["length"])), 0
    network.train()

    def step():
        nonlocal at
        rows, at = order[at : at + batch_size], (at + batch_size) % len(order)
        batch = {name: values[rows] for name, values in arrays.items()}
        logits = network(batch["tokens"], batch["length"])
        loss = _loss(logits, batch, _targets(teacher, batch, rows))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), CLIP_NORM)
        optimizer.step()
        return loss

    return step


def _targets(teacher, batch, rows):
    if teacher is None:
        return None
    if isinstance(teacher, torch.Tensor):
        return teacher[rows]
    with torch.no_grad():
        return teacher.eval()(batch["tokens"], batch["length"])


def _loss(logits, batch, targets):
    """Return the mean over examples, or over the real tokens of a language model."""
    if targets is not None:
        log_probs, wanted = F.log_softmax(logits, -1), F.log_softmax(targets, -1)
        divergence = F.kl_div(log_probs, wanted, reduction="none", log_target=True).sum(-1)
        return divergence.mean() if "mask" not in batch else divergence[batch["mask"].bool()].mean()
    label = batch["label"] if "mask" not in batch else batch["label"].masked_fill(batch["mask"] == 0, -100)
    return F.cross_entropy(logits.flatten(0, -2), label.flatten())


def milliseconds(step: Callable, steps: int) -> float:
    """Return the wall time per step, in milliseconds."""
    start = time.perf_counter()
    for _ in range(steps):
        loss = step()
    loss.item()
    return 1000 * (time.perf_counter() - start) / steps
