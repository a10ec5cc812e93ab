"""Ranks that share a clip's tokens compute what one network does: closed forms, whole networks, planted faults."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from diffusers import LTXVideoTransformer3DModel, WanTransformer3DModel
from diffusers.models.transformers.transformer_ltx2 import LTX2AudioVideoAttnProcessor
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import Tensor, nn

from ray_distill.models import family as adapter
from ray_distill.models import features
from ray_distill.models.cogvideox import sequence as cogvideox
from ray_distill.models.heads import FeatureDiscriminator, random_heads
from ray_distill.models.hunyuan15 import sequence as hunyuan15
from ray_distill.models.int8 import quantize
from ray_distill.models.lora import LoRA, add_lora
from ray_distill.models.ltx2 import sequence as ltx2
from ray_distill.models.packed import tensor_shape, with_layout
from ray_distill.models.sequence import Ranks, ranks_of, split
from ray_distill.models.wan import sequence as wan
from ray_distill.types import Cache
from tests.threads import ThreadRanks, on_ranks

sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))
import tiny_cogvideox
import tiny_hunyuan15
import tiny_ltx2

HEARD = (tiny_ltx2.CHANNELS, 2, 2, 3, 6)
"""LTX-2's clips: 12 tokens of picture and 6 of sound."""
SHAPES = {
    "wan": ((4, 3, 4, 4), (5, 8)),
    "ltx": ((4, 3, 2, 2), (5, 8)),
    "cogvideox": ((4, 3, 4, 4), (tiny_cogvideox.TOKENS, tiny_cogvideox.WIDTH)),
    "hunyuan15": ((tiny_hunyuan15.CHANNELS, 3, 2, 2), (5, tiny_hunyuan15.WIDTH)),
    "ltx2": (tensor_shape(HEARD), (5, tiny_ltx2.WIDTH)),
}
EXAMPLES: dict[str, Callable[[], nn.Module]] = {
    "cogvideox": tiny_cogvideox.make_transformer,
    "cogvideox 2b": partial(tiny_cogvideox.make_transformer, "2b"),
    "hunyuan15": tiny_hunyuan15.make_transformer,
    "hunyuan15 from an image": tiny_hunyuan15.make_transformer,
    "ltx2": tiny_ltx2.make_transformer,
    "ltx2 from an image": tiny_ltx2.make_transformer,
    "ltx2 interleaved": tiny_ltx2.make_transformer,
}
TOKENS, WIDTH, HEADS, BLOCKS = 12, 48, 4, 2
PARTS = LoRA(rank=2, targets=("to_q", "to_out.0", "proj_out"))
DRAWING = threading.Lock()
"""torch's generator is one for all threads."""


def test_an_exchange_is_a_transposition_of_pieces() -> None:
    """Element 100 t + h of token t and head h: rank r gets all t of the heads [r H / size, (r + 1) H / size)."""
    whole = (100 * torch.arange(6)[:, None] + torch.arange(4)).float()[None, :, :, None].requires_grad_()

    def work(ranks: ThreadRanks) -> tuple[Tensor, Tensor, Tensor]:
        own = ranks.own(whole).detach().requires_grad_()
        heads = ranks.to_heads(own)
        back = ranks.to_tokens(heads)
        (heads * (1 + ranks.rank)).sum().backward()  # whoever attends to head h is rank h // 2
        return heads, back - own, own.grad

    results, log = on_ranks(2, work)
    for rank, (heads, change, gradient) in enumerate(results):
        assert torch.equal(heads, whole[:, :, 2 * rank : 2 * rank + 2])
        assert not change.any()
        assert gradient[0, :, :, 0].tolist() == [[1.0, 1.0, 2.0, 2.0]] * 3
    assert [name for name, _ in log] == ["all-to-all"] * 3


def test_the_backward_of_a_gather_sums() -> None:
    """d/dx_i of sum_r (r + 1) w . x, computed on every rank r = 0, 1, 2: 6 w_i; a mean over ranks makes 2 w_i of it."""
    weights = torch.arange(6.0)

    def work(ranks: ThreadRanks) -> tuple[Tensor, Tensor]:
        own = ranks.own(torch.ones(1, 6)).clone().requires_grad_()
        whole = ranks.gather(own)
        ((ranks.rank + 1) * whole * weights).sum().backward()
        return whole, own.grad

    results, _ = on_ranks(3, work)
    assert all(torch.equal(whole, torch.ones(1, 6)) for whole, _ in results)
    assert torch.cat([gradient for _, gradient in results], 1).tolist() == [[0.0, 6.0, 12.0, 18.0, 24.0, 30.0]]


@dataclass(frozen=True)
class Case:
    name: str = "wan"
    """The family, and a word for one of its networks."""
    by_frame: bool = False
    """Levels that differ by frame."""
    checkpointing: bool = False
    chunks: tuple[int, ...] = ()
    cached: bool = False
    """Frame by frame with a cache, all chunks in one graph."""
    read: bool = False
    heads: bool = False
    """Discriminator heads behind the features of both blocks."""
    adapters: str = ""
    """"before" or "after" the split; int8 base."""

    @property
    def family(self) -> str:
        return self.name.split()[0]

    @property
    def features(self) -> tuple[int, ...]:
        return (0, 1) if self.read or self.heads else ()


def network(case: Case) -> tuple[nn.Module, nn.Module]:
    """A transformer of 4 heads, with discriminator heads on its blocks."""
    torch.manual_seed(0)
    (channels, *_), (_, text) = SHAPES[case.family]
    size: dict[str, Any] = {"num_attention_heads": HEADS, "attention_head_dim": WIDTH // HEADS, "num_layers": BLOCKS}
    size |= {"in_channels": channels, "out_channels": channels}
    if case.name in EXAMPLES:
        example: Any = EXAMPLES[case.name]()
        changed: dict[str, Any] = {"num_attention_heads": HEADS}
        if case.family == "ltx2":
            changed |= {"cross_attention_dim": 64, "audio_num_attention_heads": HEADS, "audio_cross_attention_dim": 32}
            changed |= {"rope_type": "interleaved"} if case.name == "ltx2 interleaved" else {}
        made: nn.Module = type(example).from_config(dict(example.config) | changed)
        for name, parameter in made.named_parameters():
            if name.endswith("linear.bias"):
                nn.init.constant_(parameter, 0.5)  # of the gates: random ones hardly let text through
    elif case.family == "ltx":
        made = LTXVideoTransformer3DModel(cross_attention_dim=WIDTH, caption_channels=text, **size)
    else:
        made = WanTransformer3DModel(text_dim=text, freq_dim=16, ffn_dim=64, rope_max_seq_len=32, **size)
    if case.checkpointing:
        made.enable_gradient_checkpointing()
    if case.adapters:
        quantize(made)
    if case.adapters == "before":
        add_lora(made, PARTS, seed=0)
    widths = adapter(case.family).features(made.config)[1] if case.heads else (WIDTH,)
    return made, random_heads(BLOCKS, widths, seed=0)


def batch(case: Case) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    rng = torch.Generator().manual_seed(0)
    shape, text = SHAPES[case.family]
    x, words = torch.randn(2, *shape, generator=rng), torch.randn(2, *text, generator=rng)
    sigma = torch.tensor([[0.1, 0.4, 0.9], [0.2, 0.3, 0.5]]) if case.by_frame else torch.tensor([0.3, 0.7])
    mask = torch.arange(text[0]) < torch.tensor([[5], [3]])  # a shorter prompt, of which LTX-Video sees its tokens
    cond = {"text": words, "text_mask": mask}
    if case.family == "hunyuan15":
        glyphs = torch.randn(2, 3, tiny_hunyuan15.GLYPHS, generator=rng)
        cond |= {"glyphs": glyphs, "glyphs_mask": torch.tensor([[True, True, False], [False, False, False]])}
    if case.name == "hunyuan15 from an image":
        cond["first"] = torch.randn(2, tiny_hunyuan15.CHANNELS, 2, 2, generator=rng)
        cond["image"] = torch.randn(2, 4, tiny_hunyuan15.STATES, generator=rng)
    if case.family == "ltx2":
        cond = with_layout({"text": words, "audio_text": words.flip(1)}, HEARD)
    if case.name == "ltx2 from an image":
        cond["first"] = torch.randn(2, tiny_ltx2.CHANNELS, 2, 3, generator=rng)
    return x.requires_grad_(), sigma, cond


def coupled(x: Tensor) -> Tensor:
    """A loss that is not separable over tokens."""
    flat = x.flatten(1)
    return (flat.softmax(1) * flat).sum()


def run(case: Case, own: tuple[nn.Module, nn.Module], ranks: ThreadRanks | None) -> dict[str, Tensor]:
    """The velocity, and the gradients of every parameter and of x."""
    module, judge = own
    split(module, ranks, adapter(case.family).exchange_heads)
    if case.adapters == "after":
        with DRAWING:
            add_lora(module, PARTS, seed=0)
    for name, parameter in module.named_parameters():
        if "lora_B" in name:
            nn.init.constant_(parameter, 0.1)
    x, sigma, cond = batch(case)
    denoiser = adapter(case.family).denoiser(module)
    asked: dict[str, Any] = {"features": case.features, "read": case.read} if case.features else {}
    if case.cached:
        cache, pieces = Cache(), []
        for frame in range(x.shape[2]):
            now = x[:, :, frame : frame + 1]
            pieces.append(denoiser(now, sigma, cond, cache=cache, **asked).velocity)
            with torch.no_grad():
                denoiser(now, sigma, cond, cache=cache, remember=True)
        velocity, taken = torch.cat(pieces, 2), ()
    else:
        prediction = denoiser(x, sigma, cond, chunks=case.chunks, **asked)
        velocity, taken = prediction.velocity, prediction.features + prediction.readings
    loss = coupled(velocity) + sum(map(coupled, taken))
    if case.heads:
        loss = loss + coupled(FeatureDiscriminator(judge, torch.float32, case.features)(taken))
    loss.backward()
    gradients = {n: p.grad for part in own for n, p in part.named_parameters() if p.grad is not None}
    return gradients | {"x": x.grad, "velocity": velocity.detach()}


def error(case: Case, size: int, around: Callable[[], Any] = ExitStack) -> float:
    """The largest difference of ``size`` ranks, gradients averaged over them as DeepSpeed does, from one network."""
    alone = run(case, network(case), None)
    own = [network(case) for _ in range(size)]
    with around():
        results, _ = on_ranks(size, lambda ranks: run(case, own[ranks.rank], ranks))
    assert all(result.keys() == alone.keys() for result in results)
    means = {name: torch.stack([result[name] for result in results]).mean(0) for name in alone}
    return max(float((means[name] - value).abs().max()) for name, value in alone.items())


CASES = {
    "wan": Case(),
    "levels-by-frame-checkpointed": Case(by_frame=True, checkpointing=True),
    "causal": Case(chunks=(1, 2), by_frame=True),
    "cache": Case(cached=True, checkpointing=True),
    "readings": Case(read=True, checkpointing=True),
    "heads": Case(heads=True),
    "adapters-before": Case(adapters="before", checkpointing=True),
    "adapters-after": Case(adapters="after"),
    "ltx": Case("ltx", checkpointing=True),
    "ltx-levels-by-frame": Case("ltx", by_frame=True),
    "cogvideox": Case("cogvideox", checkpointing=True),
    "cogvideox-2b": Case("cogvideox 2b"),
    "cogvideox-adapters-before": Case("cogvideox", adapters="before", checkpointing=True),
    "cogvideox-adapters-after": Case("cogvideox", adapters="after"),
    "hunyuan15": Case("hunyuan15", checkpointing=True),
    "hunyuan15-image": Case("hunyuan15 from an image"),
    "hunyuan15-adapters-before": Case("hunyuan15", adapters="before", checkpointing=True),
    "hunyuan15-adapters-after": Case("hunyuan15", adapters="after"),
    "ltx2": Case("ltx2", checkpointing=True),
    "ltx2-image": Case("ltx2 from an image", checkpointing=True),
    "ltx2-interleaved": Case("ltx2 interleaved"),
    "ltx2-heads": Case("ltx2", heads=True, checkpointing=True),
    "ltx2-adapters-before": Case("ltx2", adapters="before", checkpointing=True),
    "ltx2-adapters-after": Case("ltx2", adapters="after"),
}
FOUR = ("wan", "causal", "heads", "ltx-levels-by-frame", "cogvideox", "cogvideox-2b", "hunyuan15", "ltx2-image")
"""Cases of four ranks, too."""


@pytest.mark.parametrize("case", CASES)
def test_forward_and_every_gradient_are_those_of_one_network(case: str) -> None:
    for size in (2, 4) if case in FOUR else (2,):
        assert error(CASES[case], size) < 1e-5


def own_chunk(ranks: ThreadRanks, x: Tensor) -> Tensor:
    """Plant a fault: a gather whose backward takes this rank's piece without a sum."""
    with torch.no_grad():
        whole = torch.cat(ranks.meet(ranks.rank, x, "all-gather"), dim=1)
    pieces = list(whole.chunk(ranks.size, 1))
    pieces[ranks.rank] = x
    return torch.cat(pieces, 1)


def without_exchange() -> Any:
    """Plant a fault: attention over this rank's tokens alone, with the right tables."""
    around = ExitStack()
    enter = around.enter_context
    call = wan.CausalAttention.__call__

    def local(self: Any, attn: Any, x: Tensor, *others: Any) -> Tensor:
        *before, sight = others
        ranks = self.ranks
        cut = replace(sight, cos=ranks.own(sight.cos), sin=ranks.own(sight.sin), tokens=x.shape[1])
        return call(self, attn, x, *before, cut)

    enter(patch.object(wan.CausalAttention, "__call__", local))
    for name in ("to_heads", "to_tokens"):
        enter(patch.object(ThreadRanks, name, lambda ranks, x: x))
    return around


def split_rope() -> Any:
    """Plant a fault: each rank rotates all tokens by the positions of its own tokens."""
    rotate = wan.CausalAttention.__call__.__globals__["rotate"]

    def wrong(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return rotate(x, cos[:, : cos.shape[1] // 2].repeat(1, 2, 1, 1), sin)

    return patch.dict(wan.CausalAttention.__call__.__globals__, rotate=wrong)


def split_positions(attention: Any) -> Any:
    """Plant a fault: each rank rotates its own tokens by the positions of the first rank's."""
    plain = attention._rotate

    def wrong(self: Any, x: Tensor, words: int, tables: Any) -> Tensor:
        return plain(self, x, words, tuple(table[: len(table) // 2].repeat(2, 1) for table in tables))

    return patch.object(attention, "_rotate", wrong)


def without_mask() -> Any:
    """Plant a fault: padding of the text is attended to."""
    plain = hunyuan15.dispatch_attention_fn
    return patch.object(hunyuan15, "dispatch_attention_fn", lambda *x, attn_mask, backend: plain(*x, backend=backend))


def own_picture() -> Any:
    """Plant a fault: sound attends to this rank's tokens of the picture alone."""
    plain = ltx2.SequenceAttention.__call__

    def local(self: Any, attn: Any, x: Tensor, picture: Tensor | None = None, *others: Any, **more: Any) -> Tensor:
        picture = more.pop("encoder_hidden_states", picture)
        if picture is None:
            return plain(self, attn, x, picture, *others, **more)
        return LTX2AudioVideoAttnProcessor()(attn, x, picture, *others, **more)

    return patch.object(ltx2.SequenceAttention, "__call__", local)


def text_of_own_heads(ranks: ThreadRanks, x: Tensor, whole: int = 0) -> Tensor:
    """Plant a fault: attention's result for the text has this rank's heads alone, and zeros for the others."""
    out, own = Ranks.to_tokens(ranks, x, whole), x.shape[2]
    others = torch.ones(out.shape[2], dtype=torch.bool)
    others[own * ranks.rank : own * (ranks.rank + 1)] = False
    return torch.cat([out[:, :whole].masked_fill(others[:, None], 0.0), out[:, whole:]], 1)


def text_without_sum(ranks: ThreadRanks, x: Tensor, whole: int = 0) -> Tensor:
    """Plant a fault: the gradient of the text that goes to other ranks stays there."""
    text, rest = x[:, :whole], x[:, whole:].unflatten(1, (ranks.size, -1))
    each = torch.stack([text if r == ranks.rank else text.detach() for r in range(ranks.size)], 1)
    pieces = torch.cat([each, rest], 2).movedim(1, 0).contiguous()
    return ranks.swap(pieces).movedim(0, 2).flatten(2, 3)


FAULTS = {
    "own-chunk": (lambda: patch.object(ThreadRanks, "gather", own_chunk), Case()),
    "no-exchange": (without_exchange, Case()),
    "rope": (split_rope, Case()),
    "local-features": (lambda: patch.object(features, "ranks_of", lambda network: None), Case(heads=True)),
    "joint-own-chunk": (lambda: patch.object(ThreadRanks, "gather", own_chunk), Case("cogvideox")),
    "joint-rope": (lambda: split_positions(cogvideox.SequenceAttention), Case("cogvideox")),
    "text-of-own-heads": (lambda: patch.object(ThreadRanks, "to_tokens", text_of_own_heads), Case("cogvideox")),
    "text-without-sum": (lambda: patch.object(ThreadRanks, "to_tokens", text_without_sum), Case("cogvideox")),
    "two-texts-without-sum": (lambda: patch.object(ThreadRanks, "to_tokens", text_without_sum), Case("hunyuan15")),
    "padding": (without_mask, Case("hunyuan15")),
    "sound-own-chunk": (lambda: patch.object(ThreadRanks, "gather", own_chunk), Case("ltx2")),
    "sound-hears-own-tokens": (own_picture, Case("ltx2")),
    "sound-from-each-rank": (lambda: patch("ray_distill.models.ltx2.network.SOUND", 2), Case("ltx2", heads=True)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_seen(fault: str) -> None:
    around, case = FAULTS[fault]
    assert error(case, 2, around) > 1e-2


def test_a_loss_times_the_ranks_is_seen_and_a_factor_of_one_is_none() -> None:
    case = Case(heads=True)
    alone = run(case, network(case), None)

    for factor in (1.0, 2.0):
        own = [network(case) for _ in range(2)]
        with patch.dict(globals(), coupled=lambda x, factor=factor, plain=coupled: factor * plain(x)):
            results, _ = on_ranks(2, lambda ranks, own=own: run(case, own[ranks.rank], ranks))
        for name, value in alone.items():
            if name != "velocity":
                mean = torch.stack([result[name] for result in results]).mean(0)
                torch.testing.assert_close(mean, factor * value, rtol=1e-4, atol=1e-5)


def test_each_block_exchanges_four_tensors_and_a_call_gathers_its_output() -> None:
    """The fewest bytes: q, k, v and attention's result, [B, tokens / size, WIDTH] of fp32 each, and their gradients;
    the output's [B, tokens / size, out]. Under checkpointing a backward exchanges q, k, v and the result once more."""
    for checkpointing in (False, True):
        case = Case(checkpointing=checkpointing)
        own = [network(case) for _ in range(2)]
        _, log = on_ranks(2, lambda ranks, own=own, case=case: run(case, own[ranks.rank], ranks))
        piece = 2 * TOKENS // 2 * 4
        swaps = 4 * BLOCKS * (3 if checkpointing else 2)
        assert sorted(set(log)) == [
            ("all-gather", piece * 16),
            ("all-to-all", piece * WIDTH),
            ("reduce-scatter", 2 * piece * 16),
        ]
        assert [name for name, _ in log].count("all-to-all") == swaps
        assert len(log) == swaps + 2


@pytest.mark.parametrize(("name", "words", "out"), [("cogvideox", tiny_cogvideox.TOKENS, 16), ("hunyuan15", 9, 8)])
def test_joint_attention_exchanges_no_more_tensors(name: str, words: int, out: int) -> None:
    """Of q, k and v the clip's pieces; of the result all words beside a rank's tokens. The backward sends the same."""
    case = Case(name)
    own = [network(case) for _ in range(2)]
    _, log = on_ranks(2, lambda ranks: run(case, own[ranks.rank], ranks))
    piece, result = (2 * tokens * HEADS * 16 * 4 for tokens in (TOKENS // 2, words + TOKENS // 2))
    assert Counter(log) == {
        ("all-to-all", piece): BLOCKS * 3 * 2,
        ("all-to-all", result): BLOCKS * 2,
        ("all-gather", 2 * TOKENS // 2 * out * 4): 1,
        ("reduce-scatter", 2 * TOKENS * out * 4): 1,
    }


def test_sound_adds_the_exchange_of_keys_and_values_and_a_gather() -> None:
    """Per block: q, k, v and the result of the picture's attention to itself; of sound's to it k and v, and the result
    of all heads, which is gathered."""
    case = Case("ltx2")
    own = [network(case) for _ in range(2)]
    _, log = on_ranks(2, lambda ranks: run(case, own[ranks.rank], ranks))
    picture, sound, out = (2 * 4 * n for n in (TOKENS // 2 * HEADS * 16, 6 * HEADS * 8, TOKENS * HEARD[0]))
    assert Counter(log) == {
        ("all-to-all", picture): BLOCKS * 4 * 2,
        ("all-to-all", picture // 2): BLOCKS * 2 * 2,  # in the sound's width
        ("all-gather", sound // 2): BLOCKS,
        ("reduce-scatter", sound): BLOCKS,
        ("all-gather", out // 2): 1,
        ("reduce-scatter", out): 1,
    }


def test_without_it_nothing_is_put_on_a_network() -> None:
    case = Case()
    module, _ = network(case)
    split(module, None, adapter("wan").exchange_heads)
    assert ranks_of(module) is None
    assert {type(block.attn1.processor) for block in module.blocks} == {WanAttnProcessor}
    x, sigma, cond = batch(case)
    seen: list[int] = []
    watched = [module, module.patch_embedding, module.proj_out, module.norm_out]
    for part in watched:
        part.register_forward_hook(lambda part, args, out: seen.append(len(part._forward_hooks)))
    adapter("wan").denoiser(module)(x, sigma, cond)
    assert seen == [1] * len(watched)


def test_tokens_that_do_not_divide_are_refused_before_an_exchange() -> None:
    case = Case()
    own = [network(case) for _ in range(2)]
    x = torch.zeros(1, 4, 3, 2, 2)

    def work(ranks: ThreadRanks) -> None:
        split(own[ranks.rank][0], ranks, adapter("wan").exchange_heads)
        adapter("wan").denoiser(own[ranks.rank][0])(x, torch.ones(1), {"text": torch.zeros(1, 5, 8)})

    with pytest.raises(AssertionError, match="3 tokens are no multiple of 2 ranks"):
        on_ranks(2, work)
