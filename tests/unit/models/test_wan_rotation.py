"""Wan's rotary embedding as one complex multiplication, on a CPU, against diffusers' own processor."""

from copy import deepcopy

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttnProcessor

from ray_distill.diffusion.guidance import both_velocities
from ray_distill.evaluate import latents
from ray_distill.evaluate.latents import denoiser
from ray_distill.evaluate.samples import Candidate
from ray_distill.models.wan import rotation
from ray_distill.models.wan.network import WanDenoiser
from ray_distill.models.wan.rotation import ComplexRotation, quicken
from ray_distill.train.worker import build
from ray_distill.types import Sampler
from tests.tiny_wan import tiny_wan
from tests.unit.toys import run_config


def wide(head: int = 32) -> WanTransformer3DModel:
    torch.manual_seed(0)
    return WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=head,
        in_channels=4,
        out_channels=4,
        text_dim=8,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
    ).requires_grad_(False)


def velocity(network, **causal):
    draw = torch.Generator().manual_seed(1)
    x_t, text = torch.randn(2, 4, 3, 6, 4, generator=draw), torch.randn(2, 5, 8, generator=draw)
    return WanDenoiser(network)(x_t, torch.tensor([0.3, 0.9]), {"text": text}, **causal).velocity


def processors(network):
    return [type(block.attn1.processor) for block in network.blocks]


@pytest.mark.parametrize("head", [32, 128])
def test_the_velocity_is_that_of_diffusers_own_processor(head, monkeypatch):
    network = wide(head)
    quick = deepcopy(network)
    quicken(quick)
    assert processors(quick) == [ComplexRotation] * 2 and processors(network) == [WanAttnProcessor] * 2
    own = velocity(network)
    torch.testing.assert_close(velocity(quick), own, rtol=1e-6, atol=1e-6)
    rotate = rotation.rotate
    monkeypatch.setattr(rotation, "rotate", lambda x, turn: rotate(x, turn.conj().resolve_conj()))
    with pytest.raises(AssertionError):  # turned the other way
        torch.testing.assert_close(velocity(quick), own, rtol=1e-6, atol=1e-6)


def test_the_gradients_are_those_of_diffusers_own_processor():
    network = wide().requires_grad_(True)
    quick = deepcopy(network)
    quicken(quick)
    for each in (network, quick):
        velocity(each).square().mean().backward()
    for own, other in zip(network.parameters(), quick.parameters(), strict=True):
        torch.testing.assert_close(other.grad, own.grad, rtol=1e-5, atol=1e-7)
    assert network.blocks[0].attn1.to_k.weight.grad.abs().max() > 1e-5


def test_both_branches_of_guidance_enter_the_first_attention_once(monkeypatch):
    network, quick, rows = wide(), wide(), []
    quicken(quick)
    attend = ComplexRotation._attend
    monkeypatch.setattr(
        ComplexRotation, "_attend", lambda self, attn, x, turn: rows.append(len(x)) or attend(self, attn, x, turn)
    )
    draw = torch.Generator().manual_seed(2)
    x_t, text, sigma = torch.randn(3, 4, 3, 6, 4, generator=draw), torch.randn(6, 5, 8, generator=draw), torch.ones(3)
    own, once = (
        torch.stack(both_velocities(WanDenoiser(each), x_t, sigma, {"text": text[:3]}, {"text": text[3:]}))
        for each in (network, quick)
    )
    assert rows == [3, 6]  # the second block has seen the text
    torch.testing.assert_close(once, own, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(once[0], once[1])
    del rows[:]
    velocity(quick)  # two other samples
    assert rows == [2, 2]


def test_narrow_heads_keep_diffusers_processor():
    network = tiny_wan(0)  # heads of 12 channels
    quicken(network)
    assert processors(network) == [WanAttnProcessor] * 2


def test_a_causal_call_is_as_before():
    network = wide()
    own = velocity(network, chunks=(1, 2))
    quick = wide()
    quicken(quick)
    assert torch.equal(velocity(quick, chunks=(1, 2)), own)
    assert torch.equal(velocity(quick, chunks=(1, 2)), own) and processors(quick) == processors(network)


@pytest.mark.parametrize(
    ("device", "dtype", "expected"),
    [("cpu", "float32", ComplexRotation), ("cpu", "bfloat16", WanAttnProcessor), ("meta", "float32", WanAttnProcessor)],
)
def test_samples_in_fp32_on_a_cpu_alone_use_it(tmp_path, monkeypatch, device, dtype, expected):
    network = wide()
    monkeypatch.setattr(latents, "_networks", lambda *_: {"teacher": network})
    config = run_config(tmp_path, roles__teacher__dtype=dtype)
    denoiser(config, Candidate("teacher", Sampler((1000.0,), "ode")), torch.device(device))
    assert processors(network) == [expected] * 2


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, ComplexRotation), ({"dtype": "bfloat16"}, WanAttnProcessor), ({"compile": True}, WanAttnProcessor)],
    ids=["fp32", "bf16", "compiled"],
)
def test_training_in_fp32_on_a_cpu_alone_uses_it(tmp_path, monkeypatch, given, expected):
    network = wide()
    monkeypatch.setattr(build, "load_network", lambda *_: network)
    config = run_config(tmp_path, **{f"roles__student__{key}": value for key, value in given.items()})
    assert processors(build.transformer(config, "student")) == [expected] * 2
