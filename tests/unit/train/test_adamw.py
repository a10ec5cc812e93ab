import pytest
import torch
from diffusers.training_utils import EMAModel

from ray_distill.train.schedule import warm_decay
from ray_distill.train.worker.ema import ShardedEMA


@pytest.mark.parametrize(("decay", "updates", "left"), [(0.99, 200, 0.13397967485796), (0.999, 1000, 0.36769542477)])
def test_constant_weights(decay, updates, left):
    """Oracle 15: e_n = p + d^n (e_0 - p)."""
    weights = {"a": torch.ones(3), "b": torch.full((2,), 5.0)}
    ema = ShardedEMA(weights, decay)
    weights["a"].zero_()
    weights["b"] += 1
    for _ in range(updates):
        ema.update()
    assert ema.average["a"].dtype == torch.float32
    torch.testing.assert_close(ema.average["a"], torch.full((3,), left), atol=1e-5, rtol=0)
    torch.testing.assert_close(ema.average["b"], torch.full((2,), 6 - left), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("decay", "updates", "left"), [(0.99, 200, 0.13397967485796), (0.999, 1000, 0.36769542477)])
def test_constant_weights_in_fp64(decay, updates, left):
    """Oracle 15, to the digits that it gives."""
    weights = {"a": torch.ones(3, dtype=torch.float64)}
    ema = ShardedEMA(weights, decay)
    weights["a"].zero_()
    for _ in range(updates):
        ema.update()
    torch.testing.assert_close(ema.average["a"], torch.full_like(weights["a"], decay**updates), atol=1e-12, rtol=0)
    assert decay**updates == pytest.approx(left, abs=5e-12)


def test_fp32_moves_where_bf16_would_not():
    weights = {"a": torch.ones(1)}
    ema, bf16 = ShardedEMA(weights, 0.999), torch.ones(1, dtype=torch.bfloat16)
    weights["a"].fill_(1.5)
    for _ in range(100):
        ema.update()
        bf16.lerp_(weights["a"].bfloat16(), 0.001)
    assert bf16.item() == 1.0
    assert ema.average["a"].item() == pytest.approx(1.5 - 0.5 * 0.999**100, abs=1e-5)


def test_it_follows_views_and_leaves_the_weights_alone():
    master = torch.arange(6.0)
    ema = ShardedEMA({"a": master[:2], "b": master[2:]}, 0.5)
    master += 2
    before = master.clone()
    ema.update()
    assert torch.equal(torch.cat([ema.average["a"], ema.average["b"]]), torch.arange(6.0) + 1)
    assert torch.equal(master, before)


def test_a_rank_without_a_shard():
    ShardedEMA({}, 0.9).update()


@pytest.mark.parametrize("decay", [0.3, 0.9999])
def test_an_average_that_begins_fast_is_that_of_diffusers(decay):
    walk = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)).cumsum(0)
    weights = walk[0].clone()
    theirs, ours = EMAModel([torch.nn.Parameter(weights.clone())], decay), ShardedEMA({"a": weights}, decay)
    for update, step in enumerate(walk[1:], 1):
        weights.copy_(step)
        theirs.step([torch.nn.Parameter(step)])
        ours.update(warm_decay(update))
        torch.testing.assert_close(ours.average["a"], theirs.shadow_params[0].data, atol=1e-5, rtol=1e-5)
    assert (ours.average["a"] - walk[0]).abs().max() > 1  # 0.9999 alone would have stayed at the first weights
