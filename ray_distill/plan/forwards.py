"""Count a method's network calls by running its own updates on toy networks."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ray_distill.config.stages import distinct
from ray_distill.models.causal import keep
from ray_distill.types import Batch, Cache, Cond, History, Method, Prediction, Role, Update, Window

ROWS = 2
MOST = 64
"""Outcomes of an update's draws that are all counted; of more, as many are drawn."""


@dataclass(frozen=True)
class Causal:
    """Sight of a causal call of ``frames``, as the Denoiser's arguments say it: of a cache the number of frames
    ``before`` and the runs of them that it holds, None without a cache."""

    frames: int
    chunks: tuple[int, ...] = ()
    before: int = 0
    past: tuple[tuple[int, int], ...] | None = None
    remember: bool = False
    window: Window | None = None
    history: bool = False


@dataclass(frozen=True)
class Call:
    """One call of a role's network on ``rows`` micro-batches (guidance makes it 2); ``grad``: autograd keeps it, on its
    way to the role's own weights where it is ``trained``, else to its input."""

    role: Role
    rows: int
    grad: bool
    trained: bool = False
    frames: int = 0
    """Latent frames, where they are not those of the clip."""
    part: Fraction = Fraction(1)
    """Of a clip, by its frames."""
    causal: Causal | None = None


@dataclass(frozen=True)
class Path:
    """The calls of one update in order, for one outcome of its draws and how likely it is."""

    weight: Fraction
    calls: tuple[Call, ...]


@dataclass(frozen=True)
class Kind:
    """An update that comes ``times`` in a cycle, and all that may happen in it."""

    role: Role
    times: int
    paths: tuple[Path, ...]

    def expected(self, role: Role, grad: bool) -> Fraction:
        """Evaluations of one micro-batch by ``role`` in a cycle."""
        calls = ((path.weight, call) for path in self.paths for call in path.calls)
        return self.times * sum(
            (w * c.rows * c.part for w, c in calls if (c.role, c.grad) == (role, grad)), Fraction(0)
        )


@dataclass(frozen=True)
class Cycle:
    """The shortest stretch of steps that a run repeats."""

    steps: int
    kinds: tuple[Kind, ...]

    def expected(self, role: Role, grad: bool) -> Fraction:
        return sum((kind.expected(role, grad) for kind in self.kinds), Fraction(0))


def cycle(method: Method, steps: int, frames: int = 1) -> Cycle:
    """The cycle of a run of ``steps`` steps on clips of ``frames`` latent frames; the whole run where nothing repeats.
    ValueError where a causal method cannot cut such clips into its chunks."""
    first, period = min(method.period[0], steps), method.period[1]
    updates: dict[Key, Update] = {}
    counts: Counter[Key] = Counter()
    if 0 < first < steps:  # the two parts of a run repeat something else each: the whole run
        length, walked = steps, list(distinct(method, steps))
    else:
        pattern = [tuple(keyed(method.updates(step))) for step in range(min(steps, 2 * period))]
        lengths = range(1, len(pattern) + 1)
        length = next(n for n in lengths if all(pattern[i] == pattern[i - n] for i in range(n, len(pattern))))
        walked = [(1, method.updates(step)) for step in range(length)]
    for times, each in walked:
        updates = keyed(each) | updates
        counts.update(dict.fromkeys(keyed(each), times))
    kinds = tuple(Kind(key[0], counts[key], tuple(paths(method, update, frames))) for key, update in updates.items())
    return Cycle(length, kinds)


Key = tuple[Role, str]


def keyed(updates: Sequence[Update]) -> dict[Key, Update]:
    """The updates by what they do."""
    return {(u.role, getattr(u.loss, "__qualname__", repr(u.loss))): u for u in updates}


def paths(method: Method, update: Update, frames: int = 1) -> Iterator[Path]:
    """Every outcome of the update's whole-number draws, depth first; of more than ``MOST``, that many at random and,
    for the peak of memory, the one in which all draws are highest."""
    every = [*islice(outcomes(method, update, frames), MOST + 1)]
    if len(every) <= MOST:
        yield from every
        return
    generator = random.Random(0)
    for _ in range(MOST):
        yield Path(Fraction(1, MOST), calls_of(method, update, frames, Draws((), generator.randrange)))
    yield Path(Fraction(0), calls_of(method, update, frames, Draws((), lambda high: high - 1)))


def outcomes(method: Method, update: Update, frames: int) -> Iterator[Path]:
    choices: list[int] = []
    while True:
        draws = Draws(choices)
        calls = calls_of(method, update, frames, draws)
        weight = Fraction(1)
        for high in draws.highs:
            weight /= high
        yield Path(weight, calls)
        choices = draws.taken
        while choices and choices[-1] == draws.highs[len(choices) - 1] - 1:
            choices.pop()
        if not choices:
            return
        choices[-1] += 1


def calls_of(method: Method, update: Update, frames: int, draws: Draws) -> tuple[Call, ...]:
    """The calls of ``update`` on toy networks, by one outcome of its draws."""
    calls: list[Call] = []
    networks: dict[Role, Any] = {
        role: ToyHeads() if role in method.heads else Toy(role, role == update.role, calls, frames)
        for role in method.roles
    }
    shape = (1, frames, 2, 2)
    zeros = torch.zeros(ROWS, *shape)
    cond = {"prompt": torch.zeros(ROWS, 1, 1)}
    states = zeros[:, None].expand(-1, len(method.sampler().timesteps), *shape)
    update.loss(networks, Batch(torch.arange(ROWS), shape, cond, cond, zeros, states), draws, {})
    return tuple(calls)


@dataclass
class Draws:
    """An Rng whose whole numbers are prescribed, and those of ``further`` past the end; equal for one purpose."""

    prescribed: Sequence[int]
    further: Callable[[int], int] = lambda high: 0
    highs: list[int] = field(default_factory=list)
    taken: list[int] = field(default_factory=list)
    by_purpose: dict[str, int] = field(default_factory=dict)

    def noise(self, purpose: str, sample_ids: Tensor, shape: Sequence[int]) -> Tensor:
        return torch.ones(len(sample_ids), *shape)

    def uniform(self, purpose: str, sample_ids: Tensor) -> Tensor:
        return torch.full((len(sample_ids),), 0.5)

    def control(self, purpose: str, high: int) -> int:
        if purpose not in self.by_purpose:
            at = len(self.highs)
            self.highs.append(high)
            self.taken.append(self.prescribed[at] if at < len(self.prescribed) else self.further(high))
            self.by_purpose[purpose] = self.taken[-1]
        return self.by_purpose[purpose]


class Toy:
    """A network of one weight that writes down how it was called."""

    def __init__(self, role: Role, trained: bool, calls: list[Call], frames: int) -> None:
        self.role, self.calls, self.frames = role, calls, frames
        self.weight = torch.full((), 0.5, requires_grad=trained)

    def __call__(
        self,
        x_t: Tensor,
        sigma: Tensor,
        cond: Cond,
        *,
        chunks: Sequence[int] = (),
        cache: Cache | None = None,
        remember: bool = False,
        window: Window | None = None,
        history: History | None = None,
        features: Sequence[int] = (),
        read: bool = False,
    ) -> Prediction:
        velocity, grad = self.weight * x_t, torch.is_grad_enabled()
        causal, frames = None, x_t.shape[2]
        if cache is not None:
            causal = Causal(frames, tuple(chunks), cache.frames, tuple(cache.chunks), remember, cache.window)
            if remember:
                keep(cache, frames, ())
        elif chunks:
            causal = Causal(frames, tuple(chunks), window=window, history=history is not None)
        other = 0 if frames == self.frames else frames
        trained = grad and self.weight.requires_grad
        rows, part = len(x_t) // ROWS, Fraction(frames, self.frames)
        self.calls.append(Call(self.role, rows, velocity.requires_grad, trained, other, part, causal))
        hidden = tuple(velocity.flatten(2).transpose(1, 2) for _ in features)
        return Prediction(velocity, hidden, hidden)


class ToyHeads:
    """Heads on one block. Their calls are not counted: their work is small beside that of what they look at."""

    blocks = (0,)

    def __call__(self, features: Sequence[Tensor]) -> Tensor:
        return torch.stack([x.sum(2) for x in features], dim=1)
