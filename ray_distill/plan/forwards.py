"""Count a method's network calls by running its own updates on toy networks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from ray_distill.types import Batch, Cond, Method, Prediction, Role, Update

ROWS, SHAPE = 2, (1, 1, 2, 2)


@dataclass(frozen=True)
class Call:
    """One call of a role's network on ``rows`` micro-batches (guidance makes it 2); ``grad``: autograd keeps it, on its
    way to the role's own weights where it is ``trained``, else to its input."""

    role: Role
    rows: int
    grad: bool
    trained: bool = False


@dataclass(frozen=True)
class Path:
    """The calls of one update in order, for one outcome of its draws and how likely it is."""

    weight: Fraction
    calls: tuple[Call, ...]


@dataclass(frozen=True)
class Kind:
    """An update that comes ``times`` in a cycle, and all that may happen in it."""

    roles: tuple[Role, ...]
    times: int
    paths: tuple[Path, ...]

    def expected(self, role: Role, grad: bool) -> Fraction:
        """Evaluations of one micro-batch by ``role`` in a cycle."""
        calls = ((path.weight, call) for path in self.paths for call in path.calls)
        return self.times * sum((w * c.rows for w, c in calls if (c.role, c.grad) == (role, grad)), Fraction(0))


@dataclass(frozen=True)
class Cycle:
    """The shortest stretch of steps that a run repeats."""

    steps: int
    kinds: tuple[Kind, ...]

    def expected(self, role: Role, grad: bool) -> Fraction:
        return sum((kind.expected(role, grad) for kind in self.kinds), Fraction(0))


def cycle(method: Method, steps: int) -> Cycle:
    """The cycle of a run of ``steps`` steps; the whole run where nothing repeats. ValueError for a causal student."""
    if method.sampler().chunks is not None:
        raise ValueError(
            f"method.name = {method.name!r}: the calls of a causal student, by chunks, are not planned yet; "
            "method.name=dmd has the same roles and states"
        )
    first, period = method.period
    updates: dict[tuple[tuple[Role, ...], str], Update] = {}
    pattern: list[tuple[tuple[tuple[Role, ...], str], ...]] = []
    for step in range(min(steps, first + 2 * period)):  # what comes later repeats the last period
        made = {(u.roles, getattr(u.loss, "__qualname__", repr(u.loss))): u for u in method.updates(step)}
        updates = made | updates
        pattern.append(tuple(made))
    walked = len(pattern)
    length = next(n for n in range(1, walked + 1) if all(pattern[i] == pattern[i - n] for i in range(n, walked)))
    times = [1] * length + [0] * (walked - length)
    if length > walked - period and walked < steps:  # nothing repeats from the first step on: the whole run
        length, (more, rest) = steps, divmod(steps - walked, period)
        times = [1] * (walked - period) + [1 + more + (i < rest) for i in range(period)]
    counts = {key: sum(n * each.count(key) for n, each in zip(times, pattern, strict=True)) for key in updates}
    kinds = tuple(
        Kind(key[0], counts[key], tuple(paths(method, update))) for key, update in updates.items() if counts[key]
    )
    return Cycle(length, kinds)


def paths(method: Method, update: Update) -> Iterator[Path]:
    """Every outcome of the update's whole-number draws, depth first."""
    choices: list[int] = []
    while True:
        draws = Draws(choices)
        calls: list[Call] = []
        networks: dict[Role, Any] = {
            role: ToyHeads() if role in method.heads else Toy(role, role in update.roles, calls)
            for role in method.roles
        }
        zeros = torch.zeros(ROWS, *SHAPE)
        cond = {"prompt": torch.zeros(ROWS, 1, 1)}
        states = zeros[:, None].expand(-1, len(method.sampler().timesteps), *SHAPE)
        update.loss(networks, Batch(torch.arange(ROWS), SHAPE, cond, cond, zeros, states), draws, {})
        weight = Fraction(1)
        for high in draws.highs:
            weight /= high
        yield Path(weight, tuple(calls))
        choices = draws.taken
        while choices and choices[-1] == draws.highs[len(choices) - 1] - 1:
            choices.pop()
        if not choices:
            return
        choices[-1] += 1


@dataclass
class Draws:
    """An Rng whose whole numbers are prescribed, and 0 past the end of ``prescribed``; equal for one purpose."""

    prescribed: Sequence[int]
    highs: list[int] = field(default_factory=list)
    taken: list[int] = field(default_factory=list)
    known: dict[str, int] = field(default_factory=dict)

    def noise(self, purpose: str, sample_ids: Tensor, shape: Sequence[int]) -> Tensor:
        return torch.ones(len(sample_ids), *shape)

    def uniform(self, purpose: str, sample_ids: Tensor) -> Tensor:
        return torch.full((len(sample_ids),), 0.5)

    def control(self, purpose: str, high: int) -> int:
        if purpose not in self.known:
            at = len(self.highs)
            self.highs.append(high)
            self.taken.append(self.prescribed[at] if at < len(self.prescribed) else 0)
            self.known[purpose] = self.taken[-1]
        return self.known[purpose]


class Toy:
    """A network of one weight that writes down how it was called."""

    def __init__(self, role: Role, trained: bool, calls: list[Call]) -> None:
        self.role, self.calls = role, calls
        self.weight = torch.full((), 0.5, requires_grad=trained)

    def __call__(
        self, x_t: Tensor, sigma: Tensor, cond: Cond, features: Sequence[int] = (), **causal: Any
    ) -> Prediction:
        velocity, grad = self.weight * x_t, torch.is_grad_enabled()
        self.calls.append(Call(self.role, len(x_t) // ROWS, velocity.requires_grad, grad and self.weight.requires_grad))
        hidden = tuple(velocity.flatten(2).transpose(1, 2) for _ in features)
        return Prediction(velocity, hidden, hidden)


class ToyHeads:
    """Heads on one block. Their calls are not counted: their work is small beside that of what they look at."""

    blocks = (0,)

    def __call__(self, features: Sequence[Tensor]) -> Tensor:
        return torch.stack([x.sum(2) for x in features], dim=1)
