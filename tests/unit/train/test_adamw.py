from collections.abc import Mapping
from types import SimpleNamespace

import pytest
import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from ray_distill.config.roles import Optimizer, RoleConfig
from ray_distill.train.worker.adamw import adamw, make_state, set_step, set_updates
from ray_distill.train.worker.role import EMA, EngineRole
from ray_distill.train.worker.zero0 import WholeAdamW

STILL = Optimizer(learning_rate=1.0, weight_decay=0.0)


class Averaged:
    """AdamW of some weights at a rate of 0 by default, and averages of them by name."""

    def __init__(self, *names: str, **weights: Tensor) -> None:
        self.weights = {name: nn.Parameter(value.clone()) for name, value in weights.items()}
        self.optimizer = adamw(nn.ParameterDict(self.weights), STILL)
        self.whole = WholeAdamW(self.optimizer, 0.0)
        self.engine = SimpleNamespace(optimizer=self.whole, zero_optimization_stage=lambda: 0)
        make_state(self.engine, names)

    def step(self, shares: Mapping[str, float], rate: float = 0.0, gradient: float = 0.0) -> None:
        for weight in self.weights.values():
            weight.grad = torch.full_like(weight, gradient)
        set_step(self.optimizer, rate, shares)
        self.whole.step()

    def average(self, weight: str, name: str = EMA) -> Tensor:
        found: Tensor = self.optimizer.state[self.weights[weight]][name]
        return found

    @torch.no_grad()
    def set(self, **values: float | Tensor) -> None:
        for name, value in values.items():
            self.weights[name].copy_(torch.as_tensor(value))


@pytest.mark.parametrize(("decay", "updates", "left"), [(0.99, 200, 0.13397967485796), (0.999, 1000, 0.36769542477)])
def test_constant_weights(decay: float, updates: int, left: float) -> None:
    """Oracle 15: e_n = p + d^n (e_0 - p)."""
    held = Averaged(EMA, a=torch.ones(3), b=torch.full((2,), 5.0))
    held.set(a=0.0, b=6.0)
    for _ in range(updates):
        held.step({EMA: 1 - decay})
    assert held.average("a").dtype == torch.float32
    torch.testing.assert_close(held.average("a"), torch.full((3,), left), atol=1e-5, rtol=0)
    torch.testing.assert_close(held.average("b"), torch.full((2,), 6 - left), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("decay", "updates", "left"), [(0.99, 200, 0.13397967485796), (0.999, 1000, 0.36769542477)])
def test_constant_weights_in_fp64(decay: float, updates: int, left: float) -> None:
    """Oracle 15, to the digits that it gives."""
    held = Averaged(EMA, a=torch.ones(3, dtype=torch.float64))
    held.set(a=0.0)
    for _ in range(updates):
        held.step({EMA: 1 - decay})
    torch.testing.assert_close(
        held.average("a"), torch.full_like(held.weights["a"], decay**updates), atol=1e-12, rtol=0
    )
    assert decay**updates == pytest.approx(left, abs=5e-12)


def test_fp32_moves_where_bf16_would_not() -> None:
    held, bf16 = Averaged(EMA, a=torch.ones(1)), torch.ones(1, dtype=torch.bfloat16)
    held.set(a=1.5)
    for _ in range(100):
        held.step({EMA: 0.001})
        bf16.lerp_(held.weights["a"].detach().bfloat16(), 0.001)
    assert bf16.item() == 1.0
    assert held.average("a").item() == pytest.approx(1.5 - 0.5 * 0.999**100, abs=1e-5)


def test_averages_take_what_the_same_step_wrote_and_leave_it_alone() -> None:
    """The weights are those of an AdamW without averages, bit for bit; each average has its own share, or rests; a
    rank may hold no weight."""
    torch.manual_seed(0)
    begin = torch.randn(5)
    held, alone = Averaged(EMA, "target", a=begin, empty=torch.zeros(0)), Averaged(a=begin)
    wanted = {EMA: begin, "target": begin}
    for shares in ({EMA: 0.5, "target": 0.25}, {"target": 0.25}, {}):
        for each in (held, alone):
            each.step(shares if each is held else {}, rate=0.1, gradient=1.0)
        assert torch.equal(held.weights["a"], alone.weights["a"])
        for name, share in shares.items():
            wanted[name] = wanted[name].lerp(held.weights["a"].detach(), share)
        assert all(torch.equal(held.average("a", name), value) for name, value in wanted.items())
    assert (held.weights["a"] - begin).abs().min() > 0.1


def test_a_skipped_step_moves_no_average() -> None:
    held = Averaged(EMA, a=torch.ones(2))
    held.set(a=3.0)
    held.step({EMA: 0.5}, rate=0.1, gradient=float("nan"))
    assert held.whole.overflow and torch.equal(held.average("a"), torch.ones(2))


def test_state_that_continues_has_no_moments_of_before() -> None:
    held, fresh = Averaged(EMA, a=torch.ones(2)), Averaged(EMA, a=torch.ones(2))
    held.step({}, rate=0.1, gradient=3.0)
    set_updates(held.engine, 0)
    held.set(a=1.0)
    for each in (held, fresh):
        each.step({}, rate=0.1, gradient=-1.0)
    assert torch.equal(held.weights["a"], fresh.weights["a"])
    set_updates(held.engine, 7)
    assert held.average("a", "step") == 7


@pytest.mark.parametrize("decay", [0.3, 0.9999])
def test_an_average_that_begins_fast_is_that_of_diffusers(decay: float) -> None:
    walk = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)).cumsum(0)
    theirs, ours = EMAModel([nn.Parameter(walk[0].clone())], decay), Averaged(EMA, a=walk[0])
    role = EngineRole(nn.Linear(1, 1), None, RoleConfig(optimizer=STILL, ema_decay=decay, ema_warmup=True), 40)
    for update, step in enumerate(walk[1:]):
        theirs.step([nn.Parameter(step)])
        ours.set(a=step)
        role.updates = update
        ours.step(role.shares())
        torch.testing.assert_close(ours.average("a"), theirs.shadow_params[0].data, atol=1e-5, rtol=1e-5)
    assert (ours.average("a") - walk[0]).abs().max() > 1  # 0.9999 alone would have stayed at the first weights
