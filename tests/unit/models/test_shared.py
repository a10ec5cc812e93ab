"""Roles on one base: each call sees its own adapter, in the backward, too, and nothing is copied."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from ray_distill.models.lora import LoRA, add_lora
from ray_distill.models.shared import SharedBase, on_one_base
from ray_distill.models.wan.network import WanDenoiser
from tests.adapters import merge
from tests.tiny_wan import SHAPE, TEXT, tiny_wan

STUDENT, FAKE = LoRA(rank=2, alpha=3), LoRA(rank=4, targets=("to_q", "ffn.net.2"))


@pytest.fixture
def roles():
    made = dict(on_one_base(tiny_wan(0).requires_grad_(False), {"student": STUDENT, "fake_score": FAKE}, seed=1))
    for role in ("student", "fake_score"):
        for name, parameter in made[role].named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(len(name)))
    return made


def predict(network, x_t=None):
    given = torch.Generator().manual_seed(2)
    x, text = torch.randn(2, *SHAPE, generator=given), torch.randn(2, *TEXT, generator=given)
    return WanDenoiser(network)(x if x_t is None else x_t, torch.tensor([0.3, 0.9]), {"text": text}).velocity


def adapter(network):
    return {name: p.detach().clone() for name, p in network.named_parameters()}


def test_the_teacher_is_the_base_and_the_others_are_it_with_their_adapters(roles):
    bare = tiny_wan(0)
    wanted = {"teacher": predict(bare)}
    for role, lora in (("student", STUDENT), ("fake_score", FAKE)):
        merged = copy.deepcopy(bare)
        merge(merged, lora, adapter(roles[role]))
        wanted[role] = predict(merged)
        assert (wanted[role] - wanted["teacher"]).abs().max() > 0.01
    for role in ("student", "teacher", "fake_score", "student", "teacher"):
        torch.testing.assert_close(predict(roles[role]), wanted[role], rtol=0, atol=1e-5)
    assert torch.equal(predict(roles["teacher"]), wanted["teacher"])


def test_adapters_begin_as_those_of_networks_of_their_own():
    made = dict(on_one_base(tiny_wan(0), {"student": STUDENT, "fake_score": FAKE}, seed=1))
    alone = tiny_wan(0)
    add_lora(alone, FAKE, seed=1)
    own = {name.replace(".default.", "."): p for name, p in alone.named_parameters() if p.requires_grad}
    assert own.keys() == dict(made["fake_score"].named_parameters()).keys()
    assert all(torch.equal(p, own[name]) for name, p in made["fake_score"].named_parameters())


def test_switching_copies_nothing_and_leaves_what_asks_for_gradients(roles):
    base = roles["teacher"]
    before = {name: (p.data_ptr(), p.requires_grad) for name, p in base.named_parameters()}
    for role in ("student", "fake_score", "teacher"):
        predict(roles[role])
    assert {name: (p.data_ptr(), p.requires_grad) for name, p in base.named_parameters()} == before
    adapters = {id(p) for role in ("student", "fake_score") for p in roles[role].parameters()}
    assert {id(p) for p in base.parameters() if p.requires_grad} == adapters


def through_all(roles):
    """The gradients of the student where it and, behind it, teacher and fake score are passed by one backward."""
    x = predict(roles["student"])
    loss = predict(roles["teacher"], x).square().mean() + predict(roles["fake_score"], x).square().mean()
    return torch.autograd.grad(loss, list(roles["student"].parameters()))


@pytest.mark.parametrize("wrong", [False, True])
def test_checkpointing_recomputes_each_role_with_its_own_adapter(roles, wrong):
    """``wrong``: diffusers' own way, whose recomputation sees whatever is active by then."""
    plain = through_all(roles)
    for role in ("student", "fake_score"):
        roles[role].enable_gradient_checkpointing()
    if wrong:
        roles["teacher"].enable_gradient_checkpointing(lambda m, *args: checkpoint(m, *args, use_reentrant=False))
    with pytest.raises(torch.utils.checkpoint.CheckpointError) if wrong else nullcontext():
        for ours, wanted in zip(through_all(roles), plain, strict=True):
            torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-6)


def test_checkpointing_is_of_the_roles_that_ask_for_it(monkeypatch):
    base = tiny_wan(0)
    base.enable_gradient_checkpointing()  # the teacher's
    made = dict(on_one_base(base, {"student": STUDENT, "fake_score": FAKE}, seed=1))
    made["student"].enable_gradient_checkpointing()
    seen = []
    monkeypatch.setattr("ray_distill.models.shared.checkpoint", lambda call, *args, **_: seen.append(1) or call(*args))
    counts = {}
    for role, network in made.items():
        predict(network)
        counts[role], seen[:] = len(seen), []
    assert counts == {"teacher": 2, "student": 2, "fake_score": 0}


def test_a_role_is_active_only_inside_its_call():
    shared = SharedBase(tiny_wan(0), {"student": STUDENT}, seed=0)
    layer = shared.module.blocks[0].attn1.to_q
    with pytest.raises(RuntimeError), shared.of("student"):
        assert layer.active_adapters == ["student"]
        raise RuntimeError
    assert layer.active_adapters == [""]
