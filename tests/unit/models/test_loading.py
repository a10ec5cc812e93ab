import json
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from torch._dynamo.testing import CompileCounter

from ray_distill.models.hashing import folder_hash
from ray_distill.models.loading import (
    WITHOUT_MASKS,
    check_folder,
    check_masks,
    compile_blocks,
    load_transformer,
    random_transformer,
    use_attention,
)
from ray_distill.models.spec import Field
from tests.tiny_wan import tiny_wan

PUBLISHED = {"text_dim": 4096, "freq_dim": 256, "in_channels": 16, "out_channels": 16, "attention_head_dim": 128}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_wan(0).save_pretrained(folder / "transformer")
    return folder


def same(a, b):
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_weights_are_loaded_in_the_dtype_asked_for(folder):
    assert same(load_transformer("wan", folder), tiny_wan(0))
    rough = load_transformer("wan", folder, torch.bfloat16)
    assert rough.proj_out.weight.dtype == torch.bfloat16
    assert torch.equal(rough.proj_out.weight, tiny_wan(0).proj_out.weight.bfloat16())


def test_random_weights_are_a_function_of_the_seed(folder):
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    one = random_transformer("wan", folder, 1)
    assert torch.equal(torch.rand(3), wanted)  # the caller's randomness is left alone
    torch.rand(10)
    assert same(one, random_transformer("wan", folder, 1)) and not same(one, random_transformer("wan", folder, 2))
    assert one.config.num_layers == 2


def refuses_masks(backend) -> bool:
    """By calling diffusers' own function of it."""
    q, mask = torch.zeros(1, 4, 1, 8), torch.ones(1, 1, 4, 4, dtype=torch.bool)
    try:
        _AttentionBackendRegistry._backends[backend](q, q, q, attn_mask=mask)
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:  # others lack a package or a GPU
        return "attn_mask" in str(error)
    return False


def test_backends_without_masks_are_known_and_refused_where_text_has_one():
    others = [backend for backend in AttentionBackendName if backend.value != "flex"]  # it runs, and warns
    assert {backend.value for backend in others if refuses_masks(backend)} == WITHOUT_MASKS
    fields = {"text": Field((4, 2), padding="mask")}
    check_masks("_native_cudnn", fields, "model.attention")
    check_masks("flash", {"text": Field((4, 2), padding="zeros")}, "model.attention")
    with pytest.raises(ValueError, match="model.attention = 'flash': the network takes a mask of its text"):
        check_masks("flash", fields, "model.attention")


def test_attention_goes_by_the_backend_that_was_asked_for():
    plain, other = tiny_wan(0), tiny_wan(0)
    use_attention(plain, "native")
    try:
        use_attention(other, "_native_math")
        assert {block.attn1.processor._attention_backend.value for block in other.blocks} == {"_native_math"}
        assert plain.blocks[0].attn1.processor._attention_backend is None
        x_t, text = torch.randn(1, other.config.in_channels, 1, 4, 4), torch.randn(1, 3, other.config.text_dim)
        made = [m(x_t, torch.tensor([500.0]), text, return_dict=False)[0] for m in (plain, other)]
        assert (made[0] - made[1]).abs().max() < 1e-5
        use_attention(plain, "native", always=True)
        assert {block.attn1.processor._attention_backend.value for block in plain.blocks} == {"native"}
    finally:
        other.set_attention_backend("native")  # diffusers keeps the last one for the whole process


def test_a_folder_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^roles.teacher.path = .*: no transformer/config.json there"):
        check_folder("wan", tmp_path, "roles.teacher.path")
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text(json.dumps({"_class_name": "UNet"}))
    for load in (check_folder, load_transformer, lambda family, folder: random_transformer(family, folder, 0)):
        with pytest.raises(ValueError, match="is a UNet, but family 'wan' is a WanTransformer3DModel"):
            load("wan", tmp_path)


def test_pickled_weights_are_refused(folder, tmp_path):
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text((folder / "transformer" / "config.json").read_text())
    torch.save(tiny_wan(0).state_dict(), tmp_path / "transformer" / "diffusion_pytorch_model.bin")
    with pytest.raises(
        ValueError, match="neither diffusion_pytorch_model.safetensors nor .* save the weights as safetensors"
    ):
        load_transformer("wan", tmp_path)


def test_the_hash_of_a_folder_follows_names_and_contents(tmp_path):
    def hashed(**files):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        (folder / "sub").mkdir(parents=True)
        for name, content in files.items():
            (folder / "sub" / name).write_bytes(content)
        return folder_hash(folder)

    large = bytes(3 << 20)
    hashes = [
        hashed(a=b"1"),
        hashed(a=b"2"),
        hashed(b=b"1"),
        hashed(a=b"1", b=b""),
        hashed(a=large),
        hashed(a=large[:-1] + b"1"),
        hashed(a=b"1" + large[:-1]),
        hashed(a=large + b"\0"),
    ]
    assert len(set(hashes)) == len(hashes)
    assert hashed(a=b"1") == hashes[0]


@pytest.mark.parametrize(
    ("size", "parameters"),
    [
        ({"num_layers": 30, "num_attention_heads": 12, "ffn_dim": 8960}, 1_418_996_800),
        ({"num_layers": 40, "num_attention_heads": 40, "ffn_dim": 13824}, 14_288_491_584),
    ],
    ids=["1.3B", "14B"],
)
def test_wan_of_the_published_sizes(size, parameters):
    with torch.device("meta"):
        model = WanTransformer3DModel(**PUBLISHED, **size)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="on a CPU inductor needs a C++ compiler")
def test_compiled_blocks_compute_and_learn_the_same():
    plain, compiled = tiny_wan(0), tiny_wan(0)
    compile_blocks(compiled)
    for frames in (1, 2):
        x_t, text = torch.randn(1, 4, frames, 4, 4), torch.randn(1, 3, 8)
        made = [m(x_t, torch.tensor([500.0]), text, return_dict=False)[0] for m in (plain, compiled)]
        torch.testing.assert_close(made[1], made[0])
        for velocity in made:
            velocity.square().sum().backward()
    gradients = dict(plain.named_parameters())
    for name, parameter in compiled.named_parameters():
        wanted = gradients[name.replace("_orig_mod.", "")].grad
        assert (wanted is None) == (parameter.grad is None)
        if wanted is not None:
            torch.testing.assert_close(parameter.grad, wanted, rtol=1e-3, atol=1e-4)


def test_blocks_are_compiled_once_for_all_and_not_anew_for_each_shape():
    plain, compiled = tiny_wan(0), tiny_wan(0)
    counter = CompileCounter()
    compile_blocks(compiled, counter)
    for frames in (1, 2, 3, 4):
        x_t, text = torch.randn(1, 4, frames, 4, 4), torch.randn(1, 3, 8)
        made = [m(x_t, torch.tensor([500.0]), text, return_dict=False)[0] for m in (plain, compiled)]
        torch.testing.assert_close(made[1], made[0])
    # One of the first shape, one for all others; two equal blocks share them.
    assert 1 <= counter.frame_count <= 4
    before = counter.frame_count
    compiled(torch.randn(1, 4, 5, 4, 4), torch.tensor([500.0]), torch.randn(1, 3, 8))
    assert counter.frame_count == before


@pytest.mark.slow
def test_every_call_of_a_run_finds_compiled_blocks():
    """Dynamo's limit of 8 versions would be met here by the fourth clip, which has one latent frame: uncompiled from
    then on, with a line of log."""
    calls = 0

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., Any]:
        def counted(*args: Any) -> Any:
            nonlocal calls
            calls += 1
            return graph.forward(*args)

        return counted

    student, fake_score, teacher = (tiny_wan(seed) for seed in range(3))
    teacher.requires_grad_(False)
    for network in (student, fake_score, teacher):
        compile_blocks(network, backend)
    asked = 0
    for frames, height, width in ((3, 4, 4), (5, 4, 4), (3, 4, 6), (1, 4, 4)):
        for network, rows, gradient in (
            (student, 2, False), (student, 2, True), (fake_score, 2, False), (teacher, 4, False), (fake_score, 2, True)
        ):  # fmt: skip
            x_t, text = torch.randn(rows, 4, frames, height, width), torch.randn(rows, 3, 8)
            with torch.set_grad_enabled(gradient):
                network(x_t, torch.full((rows,), 500.0), text, return_dict=False)
            asked += len(network.blocks)
            assert calls == asked, f"uncompiled at {frames} frames"
