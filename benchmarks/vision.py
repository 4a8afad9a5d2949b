"""Time training steps of the image networks, several per call as in a study, against PyTorch eager.

    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python benchmarks/vision.py
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python benchmarks/vision.py --populations 4 16 64 --only "cnn_small, stride"

A step is forward, backward, clipping and AdamW on 128 images of 28 x 28. Rounds are interleaved, so read the ratios:
best / median of the faster half of the rounds. With `--populations` R, the runs of kdib train one after another and
under one vmap, both on one device; torch trains one after another.
"""

import argparse
import itertools
import platform
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import torch
from cases import BATCH, pages, undisturbed
from picture_cases import CASES, CLASSES, SHAPE, Case, N, network, pictures
from torch import nn
from torch.nn import functional as F
from torch_peers import CLIP_NORM, LEARNING_RATE, WEIGHT_DECAY, milliseconds
from trained import Trained, parameters

from kdib.models import PRESETS
from kdib.models.base import table
from kdib.population import train_chunk

TEACHER = Case("cnn_1", "pool")
POPULATION = ("mlp_small", "cnn_small, stride")  # the cases of --populations without --only


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=CASES, nargs="*")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5, help="per call, and per round")
    parser.add_argument("--populations", type=int, nargs="*", default=[], help="numbers of runs")
    args = parser.parse_args()
    torch.set_num_threads(2)
    names = args.only or [name for name in CASES if not args.populations or name in POPULATION]
    print(f"{platform.machine()}, jax {jax.__version__}, torch {torch.__version__}, {pages()}", flush=True)
    sides = {name: competitors(CASES[name], args.populations) for name in names}
    print(f"{len(names)} cases, {train_chunk._cache_size()} compilations of train_chunk")
    times = {(name, side): [] for name, forms in sides.items() for side in forms}
    for _ in range(args.rounds):
        for (name, side), spent in times.items():
            spent.append(sides[name][side](args.steps))
    print(f"{'':30}{'':28}{'ms a run and step':>20}{'this/kdib':>14}")
    for (name, side), spent in times.items():
        best, middle, ours = min(spent), undisturbed(spent), times[name, "kdib"]
        ratio = f"{best / min(ours):.2f} / {middle / undisturbed(ours):.2f}"
        print(f"{name:30}{side:28}{best:11.2f} /{middle:7.2f}{ratio:>14}")


def competitors(case: Case, populations: list[int]) -> dict[str, Callable[[int], float]]:
    """Return the timed functions: each takes a number of steps and returns milliseconds per run and step."""
    data, single = pictures(), None
    forms: dict[str, Callable[[int], float]] = {}
    for runs in (1, *populations):
        group = Trained(network(case), data, runs=runs, teacher=_teacher(case))
        group.milliseconds(2)
        if runs == 1:
            single = group
            forms["kdib"] = group.milliseconds
            continue
        forms[f"kdib, {runs} runs in turn"] = in_turn(single.milliseconds, runs)
        forms[f"kdib, vmap over {runs} runs"] = lambda steps, group=group, runs=runs: group.milliseconds(steps) / runs
    for label, layout in (("torch", torch.contiguous_format), ("torch, channels last", torch.channels_last)):
        if layout is torch.channels_last and not case.downsampling:
            continue
        step = training_step(peer(case), data, layout, _torch_teacher(case))
        step()
        forms[label] = lambda steps, step=step: milliseconds(step, steps)
    sizes = parameters(single.population.state.params), sum(p.numel() for p in peer(case).parameters())
    print(f"{case}: parameters {sizes[0]} and {sizes[1]}", flush=True)
    return forms


def in_turn(one: Callable[[int], float], runs: int) -> Callable[[int], float]:
    """Return a function that gives the mean over as many calls as there are runs."""
    return lambda steps: sum(one(steps) for _ in range(runs)) / runs


def _teacher(case: Case):
    if case.teacher == "live":
        model = network(TEACHER)
        return model, model.init(jax.random.key(9), {"image": pictures()["image"][:1]})
    if case.teacher == "stored":
        answers = jax.random.normal(jax.random.key(9), (1, N, CLASSES))
        return table(), {"params": {"teacher": jnp.int32(0)}, "answers": answers}
    return None


def _torch_teacher(case: Case):
    if case.teacher == "live":
        return peer(TEACHER)
    return torch.randn(N, CLASSES) if case.teacher == "stored" else None


def peer(case: Case) -> nn.Sequential:
    """Build the same network in PyTorch."""
    fields = PRESETS[case.preset]
    layers: list[nn.Module] = []
    if "widths" in fields:
        sizes = [int(np.prod(SHAPE)), *fields["widths"]]
        for inputs, width in itertools.pairwise(sizes):
            layers += [nn.Linear(inputs, width), nn.ReLU(), nn.Dropout(fields["dropout"])]
        return nn.Sequential(nn.Flatten(), *layers, nn.Linear(sizes[-1], CLASSES))
    sizes = [SHAPE[-1], *fields["channels"]]
    for i, (inputs, features) in enumerate(itertools.pairwise(sizes)):
        stride = 2 if case.downsampling == "stride" and i else 1
        layers += [nn.Conv2d(inputs, features, 3, stride, 1), nn.BatchNorm2d(features), nn.ReLU()]
        if case.downsampling == "pool" and i < len(sizes) - 2:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(sizes[-1], CLASSES))


def training_step(net: nn.Module, data, layout, teacher=None) -> Callable[[], torch.Tensor]:
    """Return a full step, batch after batch: scaling pixels to fractions, forward, backward, clip, AdamW.

    `teacher` is None (labels), a network that is evaluated at every step, or stored logits [N, K].
    """
    net = net.to(memory_format=layout).train()
    if isinstance(teacher, nn.Module):
        teacher = teacher.to(memory_format=torch.channels_last).eval()
    image = torch.from_numpy(data["image"]).permute(0, 3, 1, 2).contiguous(memory_format=layout)
    label = torch.from_numpy(data["label"]).long()
    optimizer = torch.optim.AdamW(net.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    order, at = torch.randperm(len(label)), 0

    def step():
        nonlocal at
        rows, at = order[at : at + BATCH], (at + BATCH) % len(order)
        x = image[rows].to(memory_format=layout, dtype=torch.float32) / 255
        loss = _loss(net(x), label[rows], _targets(teacher, x, rows))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), CLIP_NORM)
        optimizer.step()
        return loss

    return step


def _targets(teacher, x, rows):
    if isinstance(teacher, torch.Tensor):
        return teacher[rows]
    with torch.no_grad():
        return None if teacher is None else teacher(x)


def _loss(logits, label, targets):
    if targets is None:
        return F.cross_entropy(logits, label)
    return F.kl_div(F.log_softmax(logits, -1), F.log_softmax(targets, -1), reduction="batchmean", log_target=True)


if __name__ == "__main__":
    main()
