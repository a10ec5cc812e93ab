"""What a plan says of causal runs, against real calls of a small Wan."""

import json
from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from ray_distill.methods import METHODS, SelfForcing
from ray_distill.models.spec import Field
from ray_distill.models.wan.network import WanDenoiser
from ray_distill.plan.estimate import Counted, estimate, steady
from ray_distill.plan.forwards import MOST, Causal, cycle
from ray_distill.plan.passes import Counter, Workload, run
from ray_distill.rng import StatelessRng
from ray_distill.types import Batch, Cache, History, Rollout, Window
from tests.tiny_wan import TEXT, tiny_wan
from tests.unit.toys import run_config

DESCRIBED = dict(tiny_wan(0).config) | {"num_attention_heads": 8}  # else its rotary tables outweigh its tokens
FIELDS = (("text", Field(TEXT, padding="zeros")),)
TWO = ((0, 3), (3, 6))
CALLS = {
    "teacher forcing": Causal(6, (3, 3), history=True),
    "masked, windowed": Causal(6, (2, 2, 2), window=Window(4, 2)),
    "cached": Causal(3, past=TWO, before=6),
    "cached, windowed": Causal(3, past=((0, 3), (9, 12)), before=12, window=Window(9, 3)),
    "remembered": Causal(3, past=TWO, before=6, remember=True),
}


def real(work):
    """The same call with data; returns (network, forward)."""
    network = type(tiny_wan(0)).from_config(DESCRIBED)
    causal, (_, frames, *_) = work.causal, work.latent
    x_t, sigma = torch.randn(work.rows, *work.latent), torch.rand(work.rows, frames)
    sight = {"chunks": causal.chunks}
    if causal.past is None:
        sight |= {"window": causal.window, "history": History(x_t.clone(), sigma) if causal.history else None}
    else:
        tokens = 4 * 4
        layers = {
            run: tuple((torch.randn(work.rows, tokens * (run[1] - run[0]), 8, 12),) * 2 for _ in range(2))
            for run in causal.past
        }
        sight |= {"cache": Cache(causal.before, layers, causal.window), "remember": causal.remember}
    level = sigma if causal.past is None else sigma[:, 0]
    text = {"text": torch.randn(work.rows, *TEXT)}
    return network, sight, lambda: WanDenoiser(network)(x_t, level, text, **sight).velocity


@pytest.mark.parametrize("kind", CALLS)
def test_a_causal_call_is_counted_as_it_is(kind):
    """Bytes that are alive after it, at most in it, and FLOPs: fake tensors against real ones."""
    causal = CALLS[kind]
    grad = not causal.remember
    latent = (4, causal.frames, 8, 8)
    work = Workload("wan", json.dumps(DESCRIBED), "float32", False, 2, latent, FIELDS, grad, causal=causal)
    network, sight, forward = real(work)
    known = [*network.parameters(), *network.buffers()]
    if "cache" in sight:
        known += [x for chunk in sight["cache"].chunks.values() for layer in chunk for x in layer]
    with Counter(known) as counter, torch.set_grad_enabled(grad):
        velocity = forward()
        saved, most, flops = counter.now, counter.most, counter.flops
    assert velocity.shape == (2, *latent)
    found = run(work, DESCRIBED)
    assert found.saved == pytest.approx(saved, rel=0.15) and found.forward == pytest.approx(most, rel=0.15)
    assert found.flops == flops > 0


@pytest.mark.parametrize("causal", [CALLS["cached"], CALLS["teacher forcing"]])
def test_a_picture_beside_each_frame_reaches_to_the_call(causal):
    """Its latents are those of the whole clip, of which a later call sees its own part."""
    described = DESCRIBED | {"in_channels": 4 + 4 + 4}
    fields = (*FIELDS, ("held", Field((4, "t", "h", "w"), of="clip")))
    latent = (4, causal.frames, 8, 8)
    work = Workload("wan", json.dumps(described), "float32", False, 2, latent, fields, True, causal=causal)
    alone = Workload("wan", json.dumps(DESCRIBED), "float32", False, 2, latent, FIELDS, True, causal=causal)
    assert run(work, described).flops > run(alone, DESCRIBED).flops > 0


def expected(found):
    return {role: (found.expected(role, True), found.expected(role, False)) for role in ("student", "fake_score")}


def test_self_forcing_in_exact_expectation():
    """Calls of a chunk are a third of a clip's here. Three exits: a mean of one step before the exit; two of three
    chunks are remembered."""
    found = cycle(SelfForcing(timesteps=(1000, 757, 522), student_interval=5, teacher_guidance=4.5), 20, 9)
    assert found.steps == 5
    rest = Fraction(2, 3)
    assert expected(found) == {"student": (1, 1 + rest + 5 * (2 + rest)), "fake_score": (5, 1)}
    student = next(kind for kind in found.kinds if kind.role == "student")
    remembered = [c.causal for c in student.paths[0].calls if c.causal and c.causal.remember]
    assert [(c.before, c.past) for c in remembered] == [(0, ()), (3, ((0, 3),))]


def test_a_window_bounds_what_calls_see():
    found = cycle(SelfForcing(timesteps=(1000,), window=6, sink=3, teacher_guidance=1.0), 5, 21)
    pasts = [call.causal.past for kind in found.kinds for path in kind.paths for call in path.calls if call.causal]
    assert max(sum(end - start for start, end in past) for past in pasts) == 3
    assert pasts[-1] == ((0, 3),)


def test_many_outcomes_are_drawn_in_place_of_walked():
    """4^7 exits: the mean of as many as are drawn is that of all to a tenth, and the costliest is among them."""
    method = SelfForcing(timesteps=(1000, 900, 700, 400), same_step_across_blocks=False, student_interval=1)
    (student, _) = cycle(method, 1, 21).kinds
    assert len(student.paths) == MOST + 1 and sum(path.weight for path in student.paths) == 1
    forwards = student.expected("student", False)
    assert float(forwards) == pytest.approx(1.5 + 6 / 7, rel=0.1)
    assert max(len(path.calls) for path in student.paths) == 7 * 4 + 6 + 3 - 1


@pytest.mark.parametrize("name", ["teacher_forcing", "causal_consistency", "causal_regression", "self_forcing_gan"])
def test_every_causal_method_is_counted(name):
    found = cycle(METHODS[name](), 5, 6)
    assert sum(found.expected("student", True) for _ in range(1)) >= 1


def test_long_rollouts_are_counted_by_their_lengths():
    """Rollouts of 6, 9 and 12 of 6 frames; one step and one call that remembers a chunk, but for the last."""
    method = SelfForcing(
        timesteps=(1000,), window=6, num_training_frames=6, rollout_frames=12, student_interval=1, teacher_guidance=1.0
    )
    found = cycle(method, 1, 6)
    assert [path.weight for path in found.kinds[0].paths] == [Fraction(1, 3)] * 3
    chunks = [sum(not c.causal.remember for c in path.calls if c.causal) for path in found.kinds[0].paths]
    assert chunks == [2, 3, 4]
    half = Fraction(1, 2)
    student = found.kinds[0].expected("student", True), found.kinds[0].expected("student", False)
    assert student == (2 * half, half * Fraction(0 + 1 + 2, 3) + half * Fraction(1 + 2 + 3, 3))


def test_a_full_window_costs_the_same_wherever_it_is():
    """Calls are counted once for all of them; the first that lets a chunk go stands for those behind it."""
    method = SelfForcing(timesteps=(1000,), window=9, sink=3, num_training_frames=9, rollout_frames=60)
    calls = {c for kind in cycle(method, 5, 9).kinds for path in kind.paths for c in path.calls if c.causal}
    assert len(calls) > 20 and len({steady(call) for call in calls}) == 12
    far = next(c for c in calls if c.causal.before == 57 and not c.causal.remember)
    assert steady(far).causal.before == 9 and steady(far).causal.past == ((0, 3), (6, 9))
    here, there = (
        run(
            Workload("wan", json.dumps(DESCRIBED), "float32", False, 2, (4, 3, 8, 8), FIELDS, True, causal=c.causal),
            DESCRIBED,
        )
        for c in (steady(far), far)
    )
    assert here == there


STREAMED = {"window": 6, "sink": 3, "num_training_frames": 9, "rollout_frames": 18, "rollout_overlap": 3}


def test_streamed_rollouts_are_counted_at_each_of_their_places():
    """Windows of 9, 6 and 3 new frames of 9; one step and one call that remembers a chunk, which for a later window is
    the one before it, too."""
    method = SelfForcing(timesteps=(1000.0,), student_interval=1, teacher_guidance=1.0, **STREAMED)
    kind = cycle(method, 1, 9).kinds[0]
    assert [path.weight for path in kind.paths] == [Fraction(1, 3)] * 3
    calls = [[c.causal for c in path.calls if c.causal] for path in kind.paths]
    assert [sum(not c.remember for c in each) for each in calls] == [3, 2, 1]
    assert [sum(c.remember for c in each) for each in calls] == [2, 2, 1]
    assert [each[0].before for each in calls] == [0, 6, 12] and calls[2][0].past == ((0, 3),)
    many = SelfForcing(student_interval=1, **STREAMED | {"rollout_frames": 240})
    paths = cycle(many, 1, 9).kinds[0].paths
    assert sum(path.weight for path in paths) == 1 and len(paths) > MOST


def test_caches_that_last_from_step_to_step_are_part_of_the_peak_and_of_a_checkpoint(tmp_path):
    """Those of all micro-batches of a rank, and of all ranks on disk; where saves end rollouts, none."""
    folder = tmp_path / "model/transformer"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(DESCRIBED | {"_class_name": "WanTransformer3DModel"}))
    config = run_config(tmp_path, method__name="self_forcing", model__max_sequence_length=TEXT[0])

    def planned(accumulation, **keys):
        method = SelfForcing(timesteps=(1000.0,), student_interval=1, **STREAMED | keys)
        train = config.train.model_copy(update={"global_batch": 4 * accumulation, "steps": 1})
        return estimate(config.model_copy(update={"method": method, "train": train}), (4, 9, 8, 8))

    one, two, ends = planned(1), planned(2), planned(2, rollout_at_save="restarted")
    size = {"float32": 4, "bfloat16": 2}[config.role("student").dtype]
    cache = 2 * 2 * 2 * (3 * 16) * 96 * size  # rows, layers, keys and values, the sink's tokens, width
    more = two.peak.total - one.peak.total
    assert more == pytest.approx(cache, rel=0.2)
    assert two.checkpoint - one.checkpoint == 2 * more and two.checkpoint - ends.checkpoint == 4 * more


def test_a_clip_of_no_whole_chunks_is_refused():
    with pytest.raises(ValueError, match="5 latent frames, which are not k x 3"):
        cycle(SelfForcing(), 5, 5)


class Longest(StatelessRng):
    """Whole numbers are as high as they can be: the longest rollout, its last exit."""

    def control(self, purpose, high):
        return high - 1


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"window": 6, "sink": 3},
        {"window": 6, "sink": 3, "num_training_frames": 6, "rollout_frames": 24},
        {"window": 6, "num_training_frames": 9, "rollout_frames": 24},
        STREAMED,
    ],
)
def test_the_activations_of_an_update_are_those_of_a_real_one(tmp_path, keys):
    """The student's update on real tensors, whole: all chunks in one graph, the cache, the scores."""
    folder = tmp_path / "model/transformer"
    folder.mkdir(parents=True)
    described = DESCRIBED | {"_class_name": "WanTransformer3DModel"}
    (folder / "config.json").write_text(json.dumps(described))
    latent, text = (4, 12, 8, 8), (5, 8)
    config = run_config(tmp_path, method__name="self_forcing", model__max_sequence_length=text[0])
    method = SelfForcing(timesteps=(1000.0, 500.0), student_interval=1, last_step_only=True, **keys)
    config = config.model_copy(update={"method": method})
    counted = Counted(config, latent)
    student = cycle(method, 1, latent[1]).kinds[0]
    place = 1 if method.streamed else -1
    student = replace(student, paths=(replace(student.paths[place], weight=Fraction(1)),))
    _, alive = counted.activations(student)
    planned = sum(alive.values())

    networks = {role: type(tiny_wan(0)).from_config(DESCRIBED) for role in method.roles}
    for held in ("fake_score", "teacher"):
        networks[held].requires_grad_(False)
    known = [x for network in networks.values() for x in (*network.parameters(), *network.buffers())]
    prompts = {"text": torch.randn(2, *text)}
    batch = Batch(torch.arange(2), latent, prompts, prompts)
    denoisers = {role: WanDenoiser(network) for role, network in networks.items()}
    with Counter(known) as counter:
        if method.streamed:  # the second of its windows, after one that has filled the cache
            batch = replace(batch, rollout=Rollout())
            with torch.no_grad():
                method.fake_score_loss(denoisers, batch, Longest(0), {})
            counter.most = counter.flops = 0
        loss = method.student_loss(denoisers, batch, Longest(0), {}).loss
        forward = counter.most
        loss.backward()
    gradients = sum(p.grad.nbytes for p in networks["student"].parameters() if p.grad is not None)
    measured = max(forward, counter.most - gradients)
    assert planned == pytest.approx(measured, rel=0.15)
    alone = replace(cycle(method, 1, 12), kinds=(student,))
    flops = sum(counted.mean(alone, role, lambda done: done.flops + done.backward_flops) for role in networks)
    assert flops == pytest.approx(counter.flops * config.train.accumulation, rel=0.02)
