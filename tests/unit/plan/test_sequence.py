"""Sequence parallelism in a plan: against torch's fake process group, in its changes, and in a cluster."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from ray_distill.models import family
from ray_distill.models.packed import tensor_shape
from ray_distill.models.sequence import Ranks, split
from ray_distill.models.spec import Field
from ray_distill.plan import changes as module
from ray_distill.plan import passes, plan
from ray_distill.plan.changes import changes
from ray_distill.plan.network import build
from ray_distill.plan.passes import Pass, Workload, conditions_of, run
from tests.tiny_ltx import tiny_ltx
from tests.tiny_wan import TEXT, tiny_wan
from tests.unit.plan.test_plan import LARGE, OFFLOAD, ROOT, SHARED, config, found

sys.path.insert(0, str(ROOT / "examples"))
import tiny_cogvideox
import tiny_hunyuan15
import tiny_ltx2

WAN = dict(tiny_wan(0).config) | {"num_attention_heads": 8}
FIELDS = (("text", Field(TEXT, padding="zeros")),)
WORK = Workload("wan", json.dumps(WAN), "float32", True, 1, (4, 5, 16, 16), FIELDS, True)


def work_of(family: str, network: Any, latent: tuple[int, ...], fields: dict[str, Field], **changed: int) -> Workload:
    """A call of the network with eight heads."""
    described = json.dumps(dict(network.config) | {"num_attention_heads": 8} | changed)
    return replace(WORK, family=family, architecture=described, latent=latent, fields=tuple(fields.items()))


WORDS = Field((tiny_cogvideox.TOKENS, tiny_cogvideox.WIDTH))
MASKED = {
    name: Field((8, width), padding="mask")
    for name, width in (("text", tiny_hunyuan15.WIDTH), ("glyphs", tiny_hunyuan15.GLYPHS))
}
SHOWN = {
    "first": Field((tiny_hunyuan15.CHANNELS, "h", "w"), of="clip"),
    "image": Field((4, tiny_hunyuan15.STATES), of="clip"),
}
HEARD = (tiny_ltx2.CHANNELS, 5, 16, 16, 8)
SPOKEN = {name: Field((8, tiny_ltx2.WIDTH)) for name in ("text", "audio_text")}
FIRST = {"first": Field((tiny_ltx2.CHANNELS, "h", "w"), of="clip", prefix=1)}
WIDE = {"cross_attention_dim": 128, "audio_num_attention_heads": 8, "audio_cross_attention_dim": 64}
WORKS = {
    "wan": WORK,
    "ltx": work_of("ltx", tiny_ltx(0), (4, 5, 16, 16), {"text": Field(TEXT, padding="mask")}, cross_attention_dim=128),
    "cogvideox": work_of("cogvideox", tiny_cogvideox.make_transformer(), (4, 5, 32, 32), {"text": WORDS}),
    "hunyuan15": work_of("hunyuan15", tiny_hunyuan15.make_transformer(), (8, 5, 32, 32), MASKED),
    "hunyuan15 from an image": work_of("hunyuan15", tiny_hunyuan15.make_transformer(), (8, 5, 32, 32), MASKED | SHOWN),
    "ltx2": work_of("ltx2", tiny_ltx2.make_transformer(), HEARD, SPOKEN, **WIDE),
    "ltx2 from an image": work_of("ltx2", tiny_ltx2.make_transformer(), HEARD, SPOKEN | FIRST, **WIDE),
}


@contextmanager
def world_of(size: int) -> Iterator[None]:
    """torch's process group without peers."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=size)
    try:
        yield
    finally:
        dist.destroy_process_group()


class Known(Ranks):
    """The ranks of a process group, which count nothing."""

    sent = 0


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", WORKS)
def test_imagined_ranks_hold_what_a_process_groups_do(name: str, size: int, checkpointing: bool) -> None:
    work = replace(WORKS[name], gradient_checkpointing=checkpointing, sequence=size)
    described = json.loads(work.architecture)
    imagined = run(work, described)
    with world_of(size), patch.object(passes, "Imagined", lambda size: Known(dist.group.WORLD)):
        real = run(work, described)
    assert (imagined.flops, imagined.backward_flops) == (real.flops, real.backward_flops)
    for term in ("saved", "forward", "backward"):
        assert getattr(imagined, term) == pytest.approx(getattr(real, term), rel=0.03), term


@pytest.mark.parametrize("name", WORKS)
def test_saved_bytes_of_a_rank_are_what_autograd_saves(name: str) -> None:
    """On tensors with data, whose exchanges do nothing."""
    work = replace(WORKS[name], gradient_checkpointing=False, sequence=2)
    described, of = json.loads(work.architecture), family(work.family)
    network, kept = build(work.family, described), dict[int, int]()

    def pack(tensor: Tensor) -> Tensor:
        storage = getattr(tensor, "elem", tensor).untyped_storage()  # of what an exchange returns
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    cond = {field: torch.ones_like(x) for field, x in conditions_of(work).items()}
    x_t = torch.randn(1, *tensor_shape(work.latent))
    with world_of(2), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        split(network, Known(dist.group.WORLD), of.exchange_heads)
        velocity = of.denoiser(network)(x_t, torch.ones(1), cond).velocity
    own = {t.untyped_storage().data_ptr() for t in [*network.parameters(), *network.buffers()]}
    real = sum(size for pointer, size in kept.items() if pointer not in own) + velocity.nbytes
    assert run(work, described).saved == pytest.approx(real, rel=0.15)


def test_bytes_sent_are_worked_out_by_hand() -> None:
    """A rank sends (size - 1) / size of q, k, v and the result, n x D of fp32 a rank and block, once in a forward, once
    more in the recomputation and once in the backward; of the output, n x 16, all but its piece, there and back."""
    tokens, width, layers, size = 5 * 8 * 8, 8 * 12, 2, 4
    blocks = layers * 4 * (tokens // size) * width * 4
    ends = 2 * tokens * 16 * 4
    for checkpointing, times in ((True, 3), (False, 2)):
        sent = run(replace(WORK, sequence=size, gradient_checkpointing=checkpointing), WAN).sent
        assert sent == (times * blocks + ends) * (size - 1) // size
    assert run(replace(WORK, sequence=size, grad=False), WAN).sent == (blocks + ends // 2) * (size - 1) // size
    assert run(WORK, WAN).sent == 0


@pytest.mark.parametrize("name", WORKS)
def test_saved_bytes_and_flops_are_divided(name: str) -> None:
    work = replace(WORKS[name], gradient_checkpointing=False)
    described = json.loads(work.architecture)
    one = run(work, described)
    for size in (2, 4):
        shared = run(replace(work, sequence=size), described)
        assert shared.saved < 1.25 * one.saved / size and shared.flops < 1.05 * one.flops / size


def test_it_is_offered_where_heads_and_tokens_divide() -> None:
    """40 heads, 32,760 tokens: 2, 4 and 8 of 16 workers; not 3, 5 or 16."""
    start = config(LARGE, "train.workers=16")
    sizes = [keys[0] for keys, _ in changes(start) if "sequence_parallel" in keys[0]]
    assert sizes == [f"train.sequence_parallel={n}" for n in (2, 4, 8)]
    without = replace(family("wan"), exchange_heads=None)  # check refuses the key
    with patch.object(module, "family", lambda name: without):
        assert not [keys for keys, _ in changes(start) if "sequence_parallel" in keys[0]]
    shared = config(LARGE, "train.workers=16", "train.sequence_parallel=4")
    offered = [keys[0] for keys, _ in changes(shared)]
    assert "train.sequence_parallel=8" in offered and "train.sequence_parallel=4" not in offered
    assert [key for key in offered if "workers" in key] == [
        "train.workers=32",
        "train.workers=64",
        "train.workers=128",
        "train.workers=256",
    ]


@pytest.mark.slow
def test_14b_at_480p_is_half_and_a_quarter_but_for_what_is_not_split() -> None:
    one, two, four = (found(LARGE, "train.workers=8", f"train.sequence_parallel={n}") for n in (1, 2, 4))
    whole = one.peak.term("activations")
    assert whole / 2 < two.peak.term("activations") < 1.04 * whole / 2
    assert whole / 4 < four.peak.term("activations") < 1.09 * whole / 4
    assert one.states == two.states == four.states
    for role, flops in one.flops.items():  # as many GPUs, as much work
        assert two.flops[role] == pytest.approx(flops, rel=0.005)
    text, _ = plan(config(LARGE, "train.sequence_parallel=4"), {"cluster": "8xH100-80GB"})
    assert "GB sent by a GPU in a step to those that share its clips" in text
    with pytest.raises(ValueError, match=r"64 is no multiple of its 6 GPUs / train.sequence_parallel = 4 x"):
        plan(config(LARGE, "train.sequence_parallel=4"), {"cluster": "6xH100-80GB"})


@pytest.mark.parametrize(
    ("path", "workers", "message"),
    [
        ("quickstart", 2, "= 2: student has 3 attention heads in each layer; with 2 workers use 1$"),
        ("quickstart", 4, "= 4: student has 3 attention heads in each layer; with 4 workers use 1$"),
        ("wan2.1_1.3b/dmd", 8, "= 8: student has 12 attention heads in each layer; with 8 workers use one of 1, 2, 4,"),
        ("wan2.1_1.3b/dmd", 2, "= 2: clips of latents 21x58x102 have 31,059 tokens; with 2 workers use 1, or "),
    ],
)
def test_what_cannot_be_shared_is_not_planned(path: str, workers: int, message: str) -> None:
    keys = [f"train.workers={workers}", f"train.sequence_parallel={workers}", "train.global_batch=64"]
    keys += ["data.height=464", "data.width=816"] if workers == 2 and "wan" in path else []
    with pytest.raises(ValueError, match=f"train.sequence_parallel {message}"):
        plan(config(f"configs/{path}.yaml", *keys), {})


def test_a_pass_without_it_is_what_it_was() -> None:
    assert isinstance(run(WORK, WAN), Pass) and run(WORK, WAN) == run(replace(WORK, sequence=1), WAN)


P720 = ["data.height=720", "data.width=1280"]
ROWS = {
    "480p, separate, all weights": (LARGE, []),
    "480p, optimizer offloaded": (LARGE, OFFLOAD),
    "480p, shared base, ZeRO-3": (SHARED, []),
    "720p, optimizer offloaded": (LARGE, [*OFFLOAD, *P720]),
    "720p, shared base, ZeRO-3": (SHARED, P720),
}


FIVE = "configs/wan2.2_5b/dmd{}.yaml"
SMALL_CARDS = {
    "all weights": (FIVE.format(""), []),
    "all weights, optimizer offloaded": (FIVE.format(""), OFFLOAD),
    "shared base, ZeRO-3": (FIVE.format("_shared_base"), []),
    "shared base, whole, int8": (FIVE.format("_int8"), []),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "cluster", "sizes"), [(ROWS, "8xH100-80GB", (1, 2, 4, 8)), (SMALL_CARDS, "4xRTX4090-24GB", (1, 2, 4))]
)
def test_the_table_of_what_holds_14b_and_5b(rows: dict[str, Any], cluster: str, sizes: tuple[int, ...]) -> None:
    documented = (ROOT / "docs/plan.md").read_text().splitlines()
    for name, (path, changed) in rows.items():
        cells = []
        for size in sizes:
            changed_too = [*changed, f"train.sequence_parallel={size}"]
            text, fits = plan(config(path, *changed_too), {"cluster": cluster})
            match = re.search(r"([0-9.]+) of", text)
            assert match is not None
            cells.append(match.group(1) + ("" if fits else ", no"))
        assert f"| {name} | {' | '.join(cells)} |" in documented


OTHERS = ("cogvideox/dmd", "hunyuan15/dmd", "ltx2/dmd_shared_base", "ltx2/dmd_i2v")


@pytest.mark.slow
@pytest.mark.parametrize("path", [f"configs/{name}.yaml" for name in OTHERS])
def test_the_table_of_other_families(path: str) -> None:
    planned = [plan(config(path, f"train.sequence_parallel={n}"), {"cluster": "8xH100-80GB"}) for n in (1, 2)]
    cells = [match.group(1) for text, fits in planned if fits and (match := re.search(r"([0-9.]+) of", text))]
    sent = re.search(r"([0-9,]+) GB sent by a GPU", planned[1][0])
    assert sent is not None
    documented = (ROOT / "docs/plan.md").read_text().splitlines()
    assert f"| `{path}` | {' | '.join([*cells, sent.group(1)])} |" in documented


@pytest.mark.slow
def test_the_table_of_collectives() -> None:
    """Of calls, whose collectives tests/unit/models/test_sequence.py counts; bytes from the plan."""
    planned = found(LARGE, "train.workers=8", "train.sequence_parallel=2")
    blocks, documented = 40, (ROOT / "docs/plan.md").read_text().splitlines()
    paths = [(kind.times * float(path.weight), path) for kind in planned.cycle.kinds for path in kind.paths]
    for role, sent in planned.sent.items():
        calls = [(share, call.grad) for share, path in paths for call in path.calls if call.role == role]
        grad, without = (round(sum(share for share, has in calls if has == kind)) for kind in (True, False))
        micro_batches = planned.config.train.accumulation / planned.cycle.steps
        swaps = blocks * (12 * grad + 4 * without)
        cells = [grad, without, f"{swaps:,}", grad + without, grad, f"{sent / micro_batches / 1e9:.3g}"]
        assert f"| {role} | {' | '.join(map(str, cells))} |" in documented


def test_streamed_rollouts_are_not_shared_and_chunks_divide() -> None:
    def offered(*overrides: str) -> list[str]:
        start = config("configs/wan2.1_1.3b/self_forcing.yaml", "train.workers=4", "method.window=12", *overrides)
        return [keys[0] for keys, _ in changes(start) if "sequence_parallel" in keys[0]]

    assert offered() and not offered("method.rollout_overlap=3", "method.rollout_frames=63")
