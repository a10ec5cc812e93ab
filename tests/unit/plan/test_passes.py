"""What fake tensors count, against what autograd saves in the real thing."""

import json
from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ray_distill.models.spec import Field
from ray_distill.models.wan.network import WanDenoiser
from ray_distill.plan.passes import Workload, count, run
from tests.tiny_wan import SHAPE, TEXT, tiny_wan

DESCRIBED = dict(tiny_wan(0).config) | {"num_attention_heads": 8}  # else its rotary tables outweigh its tokens
FIELDS = (("text", Field(TEXT, padding="zeros")),)
WORK = Workload("wan", json.dumps(DESCRIBED), "float32", False, 2, SHAPE, FIELDS, True)


def call(work, layers=2):
    """The same call with data; returns (network, velocity)."""
    dtype = getattr(torch, work.dtype)
    network = type(tiny_wan(0)).from_config(DESCRIBED | {"num_layers": layers}).to(dtype)
    if work.gradient_checkpointing:
        network.enable_gradient_checkpointing()
    x_t, sigma = torch.randn(work.rows, *work.latent), torch.rand(work.rows)
    return (
        network,
        lambda: WanDenoiser(network, dtype)(x_t, sigma, {"text": torch.randn(work.rows, *TEXT)}).velocity,
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("rows", "latent"), [(1, SHAPE), (3, (4, 5, 8, 6))])
def test_saved_bytes_are_what_autograd_saves(dtype, checkpointing, rows, latent):
    work = replace(WORK, dtype=dtype, gradient_checkpointing=checkpointing, rows=rows, latent=latent)
    network, forward = call(work)
    own = {t.untyped_storage().data_ptr() for t in [*network.parameters(), *network.buffers()]}
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        velocity = forward()
    assert velocity.requires_grad
    real = sum(size for pointer, size in kept.items() if pointer not in own) + velocity.nbytes
    assert run(work, DESCRIBED).saved == pytest.approx(real, rel=0.15)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_equal_blocks_are_counted_from_two(checkpointing):
    deep = DESCRIBED | {"num_layers": 7}
    work = replace(WORK, architecture=json.dumps(deep), gradient_checkpointing=checkpointing, latent=(4, 5, 16, 16))
    assert count(work) == run(work, deep)


def test_flops_are_those_of_torch_with_attention_spelled_out():
    _, forward = call(WORK)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        velocity = forward()
        flops = counter.get_total_flops()
    found = run(WORK, DESCRIBED)
    assert found.flops == flops > 0
    assert (
        velocity.requires_grad and 2 * flops <= found.backward_flops <= 2.6 * flops
    )  # fused attention recomputes q k^T


def test_checkpointing_keeps_less_and_computes_a_forward_more():
    plain, thrifty = run(WORK, DESCRIBED), run(replace(WORK, gradient_checkpointing=True), DESCRIBED)
    assert thrifty.saved < 0.3 * plain.saved and thrifty.backward < plain.backward
    blocks = thrifty.backward_flops - plain.backward_flops
    assert 0.8 * plain.flops < blocks <= plain.flops


def test_without_gradient_nothing_is_kept():
    found = run(replace(WORK, grad=False), DESCRIBED)
    assert (found.backward, found.backward_flops) == (0, 0)
    assert found.saved < 0.1 * run(WORK, DESCRIBED).saved


def test_a_batch_counts_by_its_rows():
    one, two = (run(replace(WORK, rows=rows), DESCRIBED) for rows in (1, 2))
    assert two.saved == pytest.approx(2 * one.saved, rel=0.1) and two.flops == 2 * one.flops
