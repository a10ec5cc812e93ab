"""A network spread over devices by its layers: where parts go, and that no tensor stays behind.

No machine here has two GPUs. PyTorch's fake tensors have devices without data, and an operation on two devices fails;
"meta" is the second device.
"""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from ray_distill.config import load_config
from ray_distill.models.layers import device_of, layout, spread
from ray_distill.models.loading import own_parameters
from ray_distill.models.wan import causal
from ray_distill.models.wan.network import WanDenoiser
from ray_distill.plan import passes
from ray_distill.plan.estimate import Counted
from ray_distill.plan.forwards import Call, Causal
from tests.tiny_wan import TEXT, tiny_wan

CONFIGS = Path(__file__).parents[3] / "configs"
FAMILIES = ("wan2.1_1.3b/dmd", "wan2.1_i2v_14b/dmd", "ltx2/dmd_i2v", "hunyuan15/dmd_i2v", "cogvideox/dmd")


def test_parts_go_to_devices_in_order_and_in_about_equal_bytes():
    network = nn.Module()
    network.register_parameter("table", nn.Parameter(torch.zeros(1)))
    network.entry = nn.Linear(10, 10)
    network.blocks = nn.ModuleList(nn.Linear(10, 10) for _ in range(7))
    on = layout(network, ["a", "b", "c"])
    assert list(on) == ["", *(f"blocks.{n}" for n in range(7))]
    assert list(on.values()) == list("aaabbccc")
    assert device_of("blocks.3.bias", on) == "b" and device_of("table", on) == device_of("entry.weight", on) == "a"
    assert set(layout(network, ["a"]).values()) == {"a"}


def spread_out(network: nn.Module) -> nn.Module:
    """``network`` over "cpu" and "meta", halfway through its blocks."""
    on = layout(network, ["cpu", "meta"])
    assert set(on.values()) == {"cpu", "meta"}
    for owner, last, name, parameter in own_parameters(network):
        setattr(owner, last, nn.Parameter(parameter.detach().to(device_of(name, on)), requires_grad=False))
    return spread(network, on)


@pytest.fixture
def two_devices(monkeypatch):
    """What plan counts runs over two devices, with two blocks."""
    build = passes.build
    monkeypatch.setattr(passes, "build", lambda *described: spread_out(build(*described)))
    monkeypatch.setitem(
        Counted.one.__globals__,
        "count",
        lambda work: passes.run(work, json.loads(work.architecture) | {"num_layers": 2}),
    )


@pytest.mark.parametrize("path", FAMILIES)
def test_every_familys_network_computes_over_two_devices(two_devices, path):
    counted = Counted(load_config(CONFIGS / f"{path}.yaml", [], {}).config)
    assert counted.one(Call("teacher", 1, grad=False)).flops > 0


def test_a_causal_student_computes_over_two_devices(two_devices):
    counted = Counted(load_config(CONFIGS / "wan2.1_1.3b/self_forcing.yaml", [], {}).config)
    assert counted.one(Call("student", 1, grad=False, frames=3, causal=Causal(3, past=(), remember=True))).flops > 0


def test_a_tensor_that_stays_behind_is_seen(two_devices, monkeypatch):
    def rotate(x, cos, sin):
        return x * cos[..., : x.shape[-1]].to(x.dtype)

    monkeypatch.setattr(causal, "rotate", rotate)
    with pytest.raises(RuntimeError, match="device"):
        test_a_causal_student_computes_over_two_devices(None)


def test_what_is_spread_computes_the_same():
    x, sigma, cond = torch.randn(1, 4, 3, 4, 6), torch.tensor([0.3]), {"text": torch.randn(1, *TEXT)}
    network = tiny_wan(0)
    wanted = WanDenoiser(network)(x, sigma, cond).velocity
    assert torch.equal(WanDenoiser(spread(network, layout(network, ["cpu", "cpu"])))(x, sigma, cond).velocity, wanted)
