"""Int8 weights: half a step from the source at most, gradients through them, casts that leave them alone."""

import pytest
import torch
from torch import nn

from ray_distill.config.roles import RoleConfig
from ray_distill.models.int8 import Int8Linear, quantize
from ray_distill.models.lora import LoRA, add_lora
from tests.tiny_wan import tiny_wan


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return nn.Linear(32, 24)


def weight(held):
    return held.weight * held.scale.view(torch.float32)


def test_a_weight_is_off_by_half_a_step_of_its_row(layer):
    held = Int8Linear(layer)
    assert held.weight.dtype == torch.int8 and held.weight.shape == (24, 32)
    step = layer.weight.abs().amax(1, keepdim=True) / 127
    assert ((weight(held) - layer.weight).abs() <= 0.5001 * step).all()
    assert held.weight.abs().amax(1).eq(127).all()  # each row uses its range
    x = torch.randn(3, 5, 32)
    assert torch.allclose(held(x), nn.functional.linear(x, weight(held), layer.bias), atol=1e-6)


def test_its_gradient_is_that_of_its_weights_and_a_row_of_zeros_is_none(layer):
    with torch.no_grad():
        layer.weight[3] = 0
    held = Int8Linear(layer)
    x = torch.randn(7, 32, requires_grad=True)
    (g,) = torch.autograd.grad(held(x).square().sum(), x)
    (wanted,) = torch.autograd.grad(nn.functional.linear(x, weight(held), layer.bias).square().sum(), x)
    assert torch.allclose(g, wanted, atol=1e-5)
    assert weight(held)[3].eq(0).all() and held(x).isfinite().all()


def test_a_cast_of_the_whole_network_leaves_it_exact(layer):
    held = Int8Linear(layer)
    before = weight(held).clone()
    held.bfloat16()
    assert torch.equal(weight(held), before) and held.bias.dtype == torch.bfloat16
    assert held(torch.randn(2, 32).bfloat16()).dtype == torch.bfloat16


def test_a_wan_weighs_less_and_says_nearly_the_same():
    network, small = tiny_wan(0), tiny_wan(0)
    quantize(small)
    taken = {name for name, m in small.named_modules() if isinstance(m, Int8Linear)}
    linear = {name for name, m in network.named_modules() if isinstance(m, nn.Linear)}
    assert taken == {name for name in linear if name.startswith("blocks.")}  # embedders and head are left
    assert not any(name.rpartition(".")[0] in taken for name, _ in small.named_parameters() if name.endswith("weight"))
    torch.manual_seed(1)
    x_t, text = torch.randn(2, network.config.in_channels, 2, 4, 4), torch.randn(2, 3, network.config.text_dim)
    a, b = (m(x_t, torch.tensor([700.0, 200.0]), text, return_dict=False)[0] for m in (network, small))
    assert 0 < (a - b).norm() / a.norm() < 0.05


def test_adapters_go_on_top_and_get_gradients():
    network = tiny_wan(0)
    quantize(network)
    add_lora(network, LoRA(rank=2), seed=0)
    x_t, text = torch.randn(1, network.config.in_channels, 1, 4, 4), torch.randn(1, 3, network.config.text_dim)
    network(x_t, torch.tensor([500.0]), text, return_dict=False)[0].square().mean().backward()
    grads = {name: p.grad for name, p in network.named_parameters() if p.requires_grad}
    assert grads and all(".lora_" in name and grad is not None for name, grad in grads.items())
    assert all(grad.abs().max() > 0 for name, grad in grads.items() if ".lora_B." in name and "attn1" in name)


@pytest.mark.parametrize(
    ("role", "message"),
    [
        ({"optimizer": {"learning_rate": 1}}, "only frozen weights can be int8; give the role a lora"),
        ({"zero": 3}, "ZeRO-3 cannot shard such weights; use zero: 0 for a frozen role"),
        ({"zero": 3, "lora": {}, "optimizer": {"learning_rate": 1}}, "ZeRO-3 cannot shard"),
    ],
)
def test_what_cannot_be_int8_is_refused(role, message):
    with pytest.raises(ValueError, match=message):
        RoleConfig(base_precision="int8", **role)
    RoleConfig(base_precision="int8", zero=0)
    RoleConfig(base_precision="int8", lora={}, optimizer={"learning_rate": 1})
