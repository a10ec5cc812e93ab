"""Adapters: their layers, their initial weights, and what a merge leaves of them."""

import pytest
import torch

from ray_distill.models.loading import empty_transformer
from ray_distill.models.lora import LoRA, add_lora, check_targets, plain
from ray_distill.models.wan.network import WanDenoiser
from tests.adapters import merge
from tests.tiny_wan import SHAPE, TEXT, tiny_wan

SMALL = LoRA(rank=4, alpha=6)
torch.manual_seed(0)
X_T, SIGMA, COND = torch.randn(2, *SHAPE), torch.tensor([0.9, 0.3]), {"text": torch.randn(2, *TEXT)}


def velocity(module):
    return WanDenoiser(module)(X_T, SIGMA, COND).velocity


def adapted(lora=SMALL, trained=True, seed=7):
    """A tiny Wan with adapters; ``trained`` adapters have a B that is not 0."""
    module = tiny_wan(1)
    add_lora(module, lora, seed)
    if trained:
        torch.manual_seed(3)
        for name, parameter in module.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.2)
    return module


def adapter_of(module):
    return {plain(name): p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}


def test_only_adapters_train_and_they_start_as_nothing():
    module = adapted(trained=False)
    adapter = adapter_of(module)
    layers = [f"blocks.{b}.{attn}.{to}" for b in (0, 1) for attn in ("attn1", "attn2") for to in SMALL.targets]
    assert adapter.keys() == {f"{layer}.lora_{m}.weight" for layer in layers for m in "AB"}
    assert adapter["blocks.0.attn1.to_q.lora_A.weight"].shape == (4, 24)
    assert all(t.any() == ("lora_A" in name) for name, t in adapter.items())
    assert torch.equal(velocity(module), velocity(tiny_wan(1)))


def test_a_is_a_function_of_the_seed_alone():
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    one = adapter_of(adapted(trained=False))
    assert torch.equal(torch.rand(3), wanted)  # the caller's randomness is left alone
    torch.rand(10)
    two, other = adapter_of(adapted(trained=False)), adapter_of(adapted(trained=False, seed=8))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["blocks.1.attn2.to_k.lora_A.weight"], other["blocks.1.attn2.to_k.lora_A.weight"])


def test_alpha_scales_and_is_the_rank_by_default():
    base = velocity(tiny_wan(1))
    by_alpha = {alpha: velocity(adapted(LoRA(rank=4, alpha=alpha, targets=["proj_out"]))) for alpha in (2, 4, None)}
    torch.testing.assert_close(by_alpha[4] - base, 2 * (by_alpha[2] - base))
    assert torch.equal(by_alpha[4], by_alpha[None]) and not torch.allclose(by_alpha[4], base)


def test_a_merged_network_is_bare_and_equal():
    module, bare = adapted(), tiny_wan(1)
    merge(bare, SMALL, adapter_of(module))
    assert bare.state_dict().keys() == tiny_wan(1).state_dict().keys()
    assert (velocity(bare) - velocity(module)).abs().max() < 1e-5
    assert (velocity(bare) - velocity(tiny_wan(1))).abs().max() > 1e-2


@pytest.mark.parametrize("change", [{"rank": 2}, {"targets": ["to_q"]}, {"targets": ["to_q", "proj_out"]}])
def test_another_adapter_is_not_merged(change):
    with pytest.raises(ValueError, match=r"another model's, or of another rank or targets: \S+ does not fit"):
        merge(tiny_wan(1), SMALL.model_copy(update=change), adapter_of(adapted()))


def test_checkpointed_blocks_give_the_same_gradients():
    gradients = []
    for checkpointing in (False, True):
        module = adapted()
        module.train()
        if checkpointing:
            module.enable_gradient_checkpointing()
        velocity(module).square().mean().backward()
        gradients.append({name: p.grad for name, p in module.named_parameters() if p.requires_grad})
        assert all(p.grad is None for p in module.parameters() if not p.requires_grad)
    plain_ones, checkpointed = gradients
    assert all(g.norm() > 0 for g in plain_ones.values())
    assert all(torch.equal(g, checkpointed[name]) for name, g in plain_ones.items())


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("to_qq", r"no layer of WanTransformer3DModel; these can be adapted: did you mean 'to_q'"),
        (
            "to_out",
            r"blocks\.0\.attn1\.to_out, a ModuleList, and only linear layers can be adapted: did .* 'to_out\.0'",
        ),
        ("patch_embedding", r"patch_embedding, a Conv3d, and only linear layers can be adapted: "),
        ("qkv", r"no layer of .*: linear_1, linear_2, net.2, proj, proj_out, time_proj, to_k, to_out.0, to_q, to_v$"),
    ],
)
def test_targets_that_match_nothing_are_named(tmp_path, target, message):
    tiny_wan(0).save_config(tmp_path / "transformer")
    module = empty_transformer("wan", tmp_path)
    assert all(p.is_meta for p in module.parameters())
    check_targets(SMALL, module, "roles.student.lora")
    check_targets(LoRA(targets=["ffn.net.2", "proj_out"]), module, "roles.student.lora")
    with pytest.raises(ValueError, match=rf"^roles\.student\.lora\.targets: '{target}' is {message}"):
        check_targets(LoRA(targets=["to_q", target]), module, "roles.student.lora")


WHOLE = LoRA(rank=4, whole=("condition_embedder", "scale_shift_table", "proj_out"))


def test_whole_parts_train_beside_the_adapters_and_come_with_a_merge():
    module = adapted(WHOLE)
    torch.manual_seed(4)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if WHOLE.trains_whole(name):
                parameter += 0.1 * torch.randn_like(parameter)
    adapter = adapter_of(module)
    whole = {name for name in adapter if ".lora_" not in name}
    assert whole == {n for n, _ in tiny_wan(1).named_parameters() if n.split(".")[0] in WHOLE.whole}
    assert "blocks.0.scale_shift_table" not in whole and len(adapter) > len(whole)
    bare = tiny_wan(1)
    merge(bare, WHOLE, adapter)
    torch.testing.assert_close(velocity(bare), velocity(module), rtol=0, atol=1e-5)
    assert torch.equal(bare.proj_out.weight, module.proj_out.weight) and not hasattr(bare, "peft_config")


def test_a_whole_part_that_is_not_there_is_named():
    empty = tiny_wan(1).to("meta")
    check_targets(WHOLE, empty, "roles.student.lora")
    with pytest.raises(ValueError, match=r"lora\.whole: 'norm_out' has no parameter .*'proj_out'"):
        check_targets(LoRA(whole=("norm_out",)), empty, "roles.student.lora")
