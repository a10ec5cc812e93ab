"""CogVideoX, HunyuanVideo 1.5 and LTX-2 are held and sharded as Wan is: every way equals one process without
sharding."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from ray_distill.methods import GAN
from ray_distill.models import family
from ray_distill.models.conditions import MASK
from ray_distill.models.heads import head_blocks
from ray_distill.models.packed import modalities, picture, prefix_length, tensor_shape, with_layout
from ray_distill.models.sequence import make_ranks, split
from ray_distill.types import Batch
from tests.gang import jobs
from tests.gang.gang import Gang
from tests.gang.test_engines import ADAPTERS, TOLERANCE, assert_moved, distance
from tests.gang.test_sequence import DMD_EACH, assert_shared

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import tiny_cogvideox
import tiny_hunyuan15
import tiny_ltx2

STEPS = 4
WIDER = {"num_attention_heads": 3, "cross_attention_dim": 48}
"""Channels of which a head's group norm has three a group, not one: that would cancel the bias before it, whose
gradient is then rounding alone."""
WHOLE = jobs.Case(zero=0, frozen_zero=0, micro_batch=8)
SEPARATE = replace(WHOLE, lora=ADAPTERS, same_weights=True)
ZERO3 = replace(WHOLE, zero=3, frozen_zero=3, micro_batch=4, gradient_checkpointing=True)
SHARED = replace(SEPARATE, zero=2, frozen_zero=3, micro_batch=2, shared_base=True)
JUDGED = GAN(student_interval=2, teacher_guidance=2.0, gan_weight=0.5, gan_r1_weight=0.1)
TRUNK = replace(JUDGED, gan_features="fake_score", gan_trunk_weight=0.1, gan_r1_weight=0.0)
HEARD = (tiny_ltx2.CHANNELS, 2, 2, 3, 6)
"""LTX-2's clips: two latent frames of 2 x 3, and six tokens of sound."""


def wider() -> torch.nn.Module:
    """LTX-2's tiny transformer with three attention heads in each modality."""
    model = tiny_ltx2.make_transformer(1)
    audio = {f"audio_{name}": value for name, value in WIDER.items()} | {"audio_cross_attention_dim": 24}
    return type(model).from_config({**model.config, **WIDER, **audio}).eval()


EXAMPLES = {
    "cogvideox": (tiny_cogvideox.make_transformer, (4, 3, 4, 4), (tiny_cogvideox.TOKENS, tiny_cogvideox.WIDTH)),
    "hunyuan15": (tiny_hunyuan15.make_transformer, (8, 3, 4, 4), (5, tiny_hunyuan15.WIDTH)),
    "ltx2": (partial(tiny_ltx2.make_transformer, 1), tensor_shape(HEARD), (8, tiny_ltx2.WIDTH)),
    "ltx2 wider": (wider, tensor_shape(HEARD), (8, tiny_ltx2.WIDTH)),
}
EXAMPLES |= {f"{name} from an image": EXAMPLES[name] for name in ("ltx2", "ltx2 wider", "hunyuan15")}


def drawn(make: Callable[[], torch.nn.Module], seed: int) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def with_masks(batch: Batch) -> Batch:
    """The batch with all of its text valid, and of quoted words the first of two tokens."""
    rows, most = batch.cond["text"].shape[:2]
    more = {
        f"text{MASK}": torch.ones(rows, most, dtype=torch.bool),
        "glyphs": torch.ones(rows, 2, tiny_hunyuan15.GLYPHS),
    }
    more[f"glyphs{MASK}"] = torch.tensor([[True, False]]).expand(rows, 2)
    return replace(batch, cond={**batch.cond, **more}, uncond={**batch.uncond, **more})


def with_masks_and_picture(batch: Batch) -> Batch:
    """The batch of :func:`with_masks` whose image is the first latent frame of its x_0, also as four tokens."""
    assert batch.x_0 is not None
    masked, first = with_masks(batch), batch.x_0[:, :, 0]
    more = {"first": first, "image": first.reshape(len(first), 4, tiny_hunyuan15.STATES)}
    return replace(masked, cond={**masked.cond, **more}, uncond={**masked.uncond, **more})


def with_sound(batch: Batch) -> Batch:
    """The batch with a text for the sound, and with the places of picture and sound."""
    cond, uncond = (
        with_layout({**texts, "audio_text": texts["text"].flip(1)}, HEARD) for texts in (batch.cond, batch.uncond)
    )
    return replace(batch, cond=cond, uncond=uncond, modalities=modalities(HEARD))


def with_picture(batch: Batch) -> Batch:
    """The batch with sound whose first latent frame is that of its x_0."""
    assert batch.x_0 is not None
    heard, first = with_sound(batch), picture(batch.x_0, HEARD)[:, :, 0]
    conds = ({**cond, "first": first} for cond in (heard.cond, heard.uncond))
    return replace(heard, **dict(zip(("cond", "uncond"), conds, strict=True)), prefix=prefix_length(1, HEARD))


FILLS = {
    **{name: with_sound for name in ("ltx2", "ltx2 wider")},
    **{f"{name} from an image": with_picture for name in ("ltx2", "ltx2 wider")},
    "hunyuan15 from an image": with_masks_and_picture,
}


def run(rank: int, world: int, name: str, case: jobs.Case, steps: int = STEPS, **saves: Any) -> dict:
    make, shape, text = EXAMPLES[name]
    plain, fill, of = jobs.micro_batches, FILLS.get(name, with_masks), family(name.split()[0])
    changes = {"tiny_wan": lambda seed: drawn(make, seed), "WanDenoiser": of.denoiser}
    changes["head_blocks"] = lambda role, heads, _, config: head_blocks(role, heads, of.name, config)
    changes |= {"exchange_heads": of.exchange_heads}
    changes |= {"SHAPE": shape, "TEXT": text, "micro_batches": lambda *given: [*map(fill, plain(*given))]}
    with patch.multiple(jobs, **changes):
        return jobs.run(rank, world, case, steps, **saves) | {"start": jobs.initial(case)}


def resumed(rank: int, world: int, name: str, case: jobs.Case, folder: str) -> tuple[dict, dict]:
    """(an uninterrupted run, one that goes on from a checkpoint after half of the steps)."""
    straight = run(rank, world, name, case, save=folder, save_at=STEPS // 2)
    return straight, run(rank, world, name, case, resume=folder, start=STEPS // 2)


@pytest.mark.parametrize(
    ("name", "alone", "case"),
    [
        ("cogvideox", WHOLE, ZERO3),
        pytest.param("cogvideox", SEPARATE, SHARED, marks=pytest.mark.slow),
        pytest.param("hunyuan15", WHOLE, ZERO3, marks=pytest.mark.slow),
        pytest.param("hunyuan15", SEPARATE, SHARED, marks=pytest.mark.slow),
        pytest.param("ltx2", WHOLE, ZERO3, marks=pytest.mark.slow),  # its pictures, below, have all of it
        pytest.param("ltx2", SEPARATE, SHARED, marks=pytest.mark.slow),
        ("ltx2 from an image", WHOLE, ZERO3),
        pytest.param("ltx2 from an image", SEPARATE, SHARED, marks=pytest.mark.slow),
        pytest.param("hunyuan15 from an image", WHOLE, ZERO3, marks=pytest.mark.slow),
        pytest.param("hunyuan15 from an image", SEPARATE, SHARED, marks=pytest.mark.slow),
    ],
)
def test_sharded_and_on_a_shared_base_it_equals_one_process(
    gang: Gang, name: str, alone: jobs.Case, case: jobs.Case
) -> None:
    (reference,) = gang.run(run, name, alone, world=1)
    assert_moved(reference, reference["start"])
    for result in gang.run(run, name, case, world=2):
        assert distance(result, reference) < TOLERANCE
        assert result["frozen"][0] == result["frozen"][1]


SHARE = jobs.Case(method=DMD_EACH, micro_batch=4, zero=3, gradient_checkpointing=True)
SHARE_ON_BASE = jobs.Case(method=DMD_EACH, micro_batch=4, lora=ADAPTERS, same_weights=True, shared_base=True)


@pytest.mark.parametrize(
    ("name", "case", "steps"),
    [
        ("cogvideox", SHARE, 2),
        pytest.param("cogvideox", SHARE_ON_BASE, 2, marks=pytest.mark.slow),
        pytest.param("hunyuan15", SHARE, 2, marks=pytest.mark.slow),
        # One step: AdamW makes 6e-6 of a weight whose gradient is 3e-9, and so 3e-4 of a later moment.
        pytest.param("hunyuan15", SHARE_ON_BASE, 1, marks=pytest.mark.slow),
        pytest.param("ltx2 from an image", SHARE, 2, marks=pytest.mark.slow),
        pytest.param("ltx2", SHARE_ON_BASE, 2, marks=pytest.mark.slow),
    ],
)
def test_two_data_ranks_of_two_sequence_ranks_are_two_data_ranks(
    gang: Gang, name: str, case: jobs.Case, steps: int
) -> None:
    """Moments and gradient norms, as Wan's in ``test_sequence``; and every rank agrees bit for bit."""
    alone = gang.run(run, name, case, steps, world=2)[0]
    assert_shared(gang.run(run, name, replace(case, sequence=2), steps, world=4), alone)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("of", "alone", "case", "method"),
    [("", WHOLE, ZERO3, TRUNK), (" from an image", WHOLE, ZERO3, JUDGED), ("", SEPARATE, SHARED, TRUNK)],
)
def test_a_discriminator_of_picture_and_sound_equals_one_process(
    gang: Gang, of: str, alone: jobs.Case, case: jobs.Case, method: GAN
) -> None:
    """Heads on the teacher, or on a fake score that learns with them; each head moves."""
    name = f"ltx2 wider{of}"
    (reference,) = gang.run(run, name, replace(alone, method=method), world=1)
    assert_moved(reference, reference["start"])
    start = {key: tensor for key, tensor in reference["start"].items() if key.startswith("discriminator/")}
    assert {key.split(".")[1] for key in start} == {"0", "1"}
    assert all((reference["tensors"][key] - tensor).abs().max() > 0 for key, tensor in start.items())
    for result in gang.run(run, name, replace(case, method=method), world=2):
        assert distance(result, reference) < TOLERANCE
        assert result["frozen"][0] == result["frozen"][1]


@pytest.mark.slow
def test_a_run_with_sound_resumes_bit_for_bit(gang: Gang, tmp_path: Path) -> None:
    for straight, again in gang.run(resumed, "ltx2", replace(ZERO3, zero=2), str(tmp_path / "c"), world=2):
        assert_moved(straight, straight["start"])
        assert straight["tensors"].keys() == again["tensors"].keys() and straight["state"] == again["state"]
        assert all(torch.equal(tensor, again["tensors"][name]) for name, tensor in straight["tensors"].items())


@pytest.mark.slow
def test_one_normaliser_over_both_modalities_is_seen(gang: Gang) -> None:
    """The planted fault: a batch without its places gives sound the normaliser and the mean of the picture."""
    (reference,) = gang.run(run, "ltx2", WHOLE, world=1)
    for result in gang.run(joined, "ltx2", ZERO3, world=2):
        assert distance(result, reference) > TOLERANCE


@pytest.mark.slow
def test_a_picture_that_enters_with_noise_is_seen(gang: Gang) -> None:
    """The planted fault: the first frame stays as it was noised, at the level of the clip."""
    name = "ltx2 from an image"
    (reference,) = gang.run(run, name, WHOLE, world=1)
    for result in gang.run(noised, name, ZERO3, world=2):
        assert distance(result, reference) > TOLERANCE


def noised(rank: int, world: int, name: str, case: jobs.Case) -> dict:
    def as_it_is(x_t: torch.Tensor, sigma: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x_t, sigma[:, None].expand(-1, x_t.shape[2])

    with patch("ray_distill.models.ltx2.network.with_first", as_it_is):
        return run(rank, world, name, case)


def joined(rank: int, world: int, name: str, case: jobs.Case) -> dict:
    with patch(f"{__name__}.modalities", lambda latent: {}):
        return run(rank, world, name, case)


def velocities(rank: int, world: int, name: str) -> tuple[torch.Tensor, ...]:
    """Velocities and a gradient by one whole network, and by ranks that share the clip, whose blocks are compiled."""
    ranks, (make, shape, text), of = make_ranks(world, timeout_s=60), EXAMPLES[name], family(name.split()[0])
    rng = torch.Generator().manual_seed(0)
    x, words = torch.randn(2, *shape, generator=rng), {"text": torch.randn(2, *text, generator=rng)}
    batch = FILLS.get(name, with_masks)(Batch(torch.arange(2), shape, words, words, x))
    made = []
    for share in (None, ranks):
        network = drawn(make, 0)
        split(network, share, of.exchange_heads)
        if share is not None:
            # LTX-2 gathers within a block, where its graph breaks.
            network.compile_repeated_blocks(backend="aot_eager", fullgraph="ltx2" not in name)  # type: ignore[operator]
        velocity = of.denoiser(network)(x, torch.tensor([0.3, 0.7]), batch.cond).velocity
        velocity.square().mean().backward()
        made.append(torch.cat([velocity.detach().flatten(), network.proj_out.weight.grad.flatten()]))
    return tuple(made)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hunyuan15", "ltx2", "ltx2 from an image"])
def test_blocks_of_shared_clips_compile(gang: Gang, name: str) -> None:
    whole, shared = (torch.stack(each).mean(0) for each in zip(*gang.run(velocities, name, world=2), strict=True))
    torch.testing.assert_close(shared, whole, rtol=0, atol=1e-5)
