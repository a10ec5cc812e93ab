"""Count a method's network calls by running its own updates on toy networks."""

from __future__ import annotations

import copy
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
from ray_distill.diffusion.layout import LAYOUT
from ray_distill.models.causal import keep
from ray_distill.types import Batch, Cache, Cond, History, Method, Prediction, Role, Rollout, Shared, Update, Window

ROWS = 2
MOST = 64
"""Largest number of outcomes of an update's draws that the plan counts in full; of more, it draws this many."""


@dataclass(frozen=True)
class Causal:
    """Visible frames of a causal call of ``frames``, by the Denoiser's arguments. For a cache, the number of frames
    ``before`` and the runs of them that it holds; None without a cache."""

    frames: int
    chunks: tuple[int, ...] = ()
    before: int = 0
    past: tuple[tuple[int, int], ...] | None = None
    remember: bool = False
    window: Window | None = None
    history: bool = False


@dataclass(frozen=True)
class Call:
    """One call of a role's network on ``rows`` micro-batches (2 with guidance). With ``grad`` autograd keeps it, for
    the role's own weights if ``trained``, else for its input."""

    role: Role
    rows: int
    grad: bool
    trained: bool = False
    frames: int = 0
    """Latent frames, if they differ from the clip's."""
    part: Fraction = Fraction(1)
    """The call's share of a clip, by its frames."""
    causal: Causal | None = None


@dataclass(frozen=True)
class Path:
    """Calls of one update in order, for one outcome of its draws, and the probability of that outcome."""

    weight: Fraction
    calls: tuple[Call, ...]


@dataclass(frozen=True)
class Kind:
    """An update that comes ``times`` in a cycle, and its possible paths."""

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
    """The shortest sequence of steps that a run repeats."""

    steps: int
    kinds: tuple[Kind, ...]

    def expected(self, role: Role, grad: bool) -> Fraction:
        return sum((kind.expected(role, grad) for kind in self.kinds), Fraction(0))


def cycle(method: Method, steps: int, frames: int = 1) -> Cycle:
    """The cycle of a run of ``steps`` steps on clips of ``frames`` latent frames; the whole run if nothing repeats.

    ValueError if a causal method cannot cut such clips into its chunks."""
    first, period = min(method.period[0], steps), method.period[1]
    updates: dict[Key, Turn] = {}
    counts: Counter[Key] = Counter()
    if 0 < first < steps:  # each of the run's two parts repeats another sequence: take the whole run
        length, walked = steps, list(distinct(method, steps))
    else:
        pattern = [tuple(keyed(method.updates(step))) for step in range(min(steps, 2 * period))]
        lengths = range(1, len(pattern) + 1)
        length = next(n for n in lengths if all(pattern[i] == pattern[i - n] for i in range(n, len(pattern))))
        walked = [(1, method.updates(step)) for step in range(length)]
    for times, each in walked:
        updates = keyed(each) | updates
        counts.update(dict.fromkeys(keyed(each), times))
    kinds: Counter[tuple[Role, str, tuple[Path, ...]]] = Counter()
    for (role, names), turn in updates.items():  # turns of equal calls are one kind
        turn = turn if shares(method, turn, frames) else turn[-1:]
        kinds[role, names[-1], tuple(paths(method, turn, frames))] += counts[role, names]
    return Cycle(length, tuple(Kind(role, times, each) for (role, _, each), times in kinds.items()))


Turn = tuple[Update, ...]
"""An update behind those of the same step that come before it, whose samples and features it may use."""
Key = tuple[Role, tuple[str, ...]]


def keyed(updates: Sequence[Update]) -> dict[Key, Turn]:
    """The updates of a step as turns, by their content."""
    names = [f"{u.role} {getattr(u.loss, '__qualname__', repr(u.loss))}" for u in updates]
    return {(u.role, tuple(names[: at + 1])): tuple(updates[: at + 1]) for at, u in enumerate(updates)}


def paths(method: Method, turn: Turn, frames: int = 1) -> Iterator[Path]:
    """Paths for every outcome of the update's whole-number draws, depth first, at each place of a streamed rollout. Of
    more than ``MOST`` outcomes it takes that many at random and, for the peak of memory, those with all draws
    highest."""
    places = [*rollouts(method, turn, frames)]
    outcome = (
        Path(path.weight / len(places), path.calls) for at in places for path in outcomes(method, turn, frames, at)
    )
    every = [*islice(outcome, MOST + 1)]
    if len(every) <= MOST:
        yield from every
        return
    generator = random.Random(0)
    for _ in range(MOST):
        at = generator.choice(places) if len(places) > 1 else places[0]
        draws = Draws((), generator.randrange)
        yield Path(Fraction(1, MOST), calls_of(method, turn, frames, draws, copy.deepcopy(at)))
    for at in places:
        highest = Draws((), lambda high: high - 1)
        yield Path(Fraction(0), calls_of(method, turn, frames, highest, copy.deepcopy(at)))


def rollouts(method: Method, turn: Turn, frames: int) -> Iterator[Rollout | None]:
    """States in which the update may find a streamed rollout, one per window."""
    if method.streamed is None:
        yield None
        return
    at = Rollout()
    while True:
        yield at
        at = copy.deepcopy(at)
        calls_of(method, turn, frames, Draws(()), at)
        if at.x is None:
            return


def outcomes(method: Method, turn: Turn, frames: int, at: Rollout | None = None) -> Iterator[Path]:
    choices: list[int] = []
    while True:
        draws = Draws(choices)
        calls = calls_of(method, turn, frames, draws, copy.deepcopy(at))
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


def calls_of(method: Method, turn: Turn, frames: int, draws: Draws, rollout: Rollout | None = None) -> tuple[Call, ...]:
    """Calls of the update of ``turn`` on toy networks for one outcome of its draws; they change ``rollout``."""
    *before, update = turn
    shared = dict[str, Tensor]()
    for each in before:
        _take(method, each, frames, Draws(()), copy.deepcopy(rollout), shared)
    return _take(method, update, frames, draws, rollout, shared)


def shares(method: Method, turn: Turn, frames: int) -> bool:
    """True where the updates before the last one leave samples or features to it."""
    shared = dict[str, Tensor]()
    for each in turn[:-1]:
        _take(method, each, frames, Draws(()), None if method.streamed is None else Rollout(), shared)
    return bool(shared)


def _take(
    method: Method, update: Update, frames: int, draws: Draws, rollout: Rollout | None, shared: Shared
) -> tuple[Call, ...]:
    calls: list[Call] = []
    networks: dict[Role, Any] = {
        role: ToyHeads() if role in method.heads else Toy(role, role == update.role, calls, frames)
        for role in method.roles
    }
    shape = (1, frames, 2, 2)
    zeros = torch.zeros(ROWS, *shape)
    no_sound = torch.empty(ROWS, 0, frames, 1, 1, 0)  # guidance of sound alone costs two calls, too
    cond = {"prompt": torch.zeros(ROWS, 1, 1), LAYOUT: no_sound}
    states = zeros[:, None].expand(-1, len(method.sampler().timesteps), *shape)
    batch = Batch(torch.arange(ROWS), shape, cond, cond, zeros, states, rollout=rollout)
    update.loss(networks, batch, draws, shared)
    return tuple(calls)


@dataclass
class Draws:
    """An Rng with prescribed whole numbers, then those of ``further``; equal draws for one purpose."""

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
    """A network of one weight that records its calls."""

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
    """Heads on one block. Their calls do not count, since their work is small beside that of the network under them."""

    blocks = (0,)

    def __call__(self, features: Sequence[Tensor]) -> Tensor:
        return torch.stack([x.sum(2) for x in features], dim=1)
