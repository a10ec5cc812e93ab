import re
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from ray_distill.diffusion.causal import chunk_lengths
from ray_distill.diffusion.samplers import sample
from ray_distill.methods import DMD, SelfForcing
from ray_distill.models.wan.network import WanDenoiser
from ray_distill.rng import StatelessRng
from ray_distill.types import Chunks, Prediction, Sampler, Window
from tests.tiny_wan import TEXT, tiny_wan
from tests.unit.toys import Gaussian, batch

RNG = StatelessRng(0)
STEPS = (1000.0, 757.0, 522.0)


@dataclass(frozen=True)
class Exits(StatelessRng):
    """The run's randomness with the exit steps given by name."""

    by_name: tuple = ()

    def control(self, purpose, high):
        assert high == len(STEPS)
        return dict(self.by_name)[purpose]


def exit_at(step):
    return Exits(0, by_name=(("student/exit", step), ("fake_score/exit", step)))


@dataclass
class Noted:
    """A causal network that notes what each call is shown, and does not look at its past."""

    calls: list = field(default_factory=list)

    def __call__(self, x_t, sigma, cond, *, cache=None, remember=False):
        seen = {"x_t": x_t, "sigma": sigma, "past": cache.frames, "grad": torch.is_grad_enabled(), "remember": remember}
        self.calls.append(seen)
        if remember:
            cache.frames += x_t.shape[2]
        return Gaussian(1.0)(x_t, sigma, cond)

    def kinds(self):
        """Per call: how many frames it knew, whether it was remembered, whether with gradient."""
        return [(call["past"], call["remember"], call["grad"]) for call in self.calls]


def wans(samples=2, frames=6, **seeds):
    networks = {role: tiny_wan(seed) for role, seed in ({"student": 1, "fake_score": 2, "teacher": 3} | seeds).items()}
    text = RNG.noise("text", torch.arange(samples), TEXT)
    data = batch(range(samples), (4, frames, 4, 4), cond={"text": text}, uncond={"text": torch.zeros_like(text)})
    return networks, {role: WanDenoiser(network) for role, network in networks.items()}, data


def touched(module):
    return [p.grad is not None and bool(p.grad.any()) for p in module.parameters()]


# The rollout


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("rollout", ["sde", "ode"])
@pytest.mark.parametrize("exit_step", [0, 1, 2])
def test_one_chunk_is_dmd(exit_step, rollout, samples):
    """The fixed point: a chunk that holds the whole clip makes Self-Forcing's rollout DMD2's, bit for bit."""
    _, held, data = wans(samples)
    causal = SelfForcing(rollout=rollout, num_frame_per_block=6)
    for purpose in ("student", "fake_score"):
        mine, dmds = (
            method.roll_out(held, data, exit_at(exit_step), purpose, False) for method in (causal, DMD(rollout=rollout))
        )
        assert torch.equal(mine, dmds)
    loss, dmds = (
        method.student_loss(held, data, exit_at(exit_step), {}).loss for method in (causal, DMD(rollout=rollout))
    )
    assert torch.equal(loss, dmds)


@pytest.mark.parametrize("samples", [1, 3])
def test_more_chunks_are_another_rollout(samples):
    _, held, data = wans(samples)
    x = SelfForcing().roll_out(held, data, exit_at(1), "student", False)
    whole = DMD().roll_out(held, data, exit_at(1), "student", False)
    assert x.shape == whole.shape and (x - whole).abs().max() > 1e-3
    alone = wans(1)[2]
    torch.testing.assert_close(SelfForcing().roll_out(held, alone, exit_at(1), "student", False), x[:1])


@pytest.mark.parametrize("rollout", ["sde", "ode"])
def test_sampling_is_the_rollout(rollout):
    """Validation makes what training rolls out to the last step, by the method's own recipe."""
    _, held, data = wans()
    method = SelfForcing(rollout=rollout, context_noise=100.0, last_step_only=True)

    def noise(i):
        return RNG.noise(f"student/noise{i}", data.sample_ids, data.latent_shape)

    sampled = sample(held["student"], method.sampler(), noise(-1), data.cond, noise=noise)
    assert torch.equal(sampled, method.roll_out(held, data, RNG, "student", False))


@pytest.mark.parametrize("exit_step", [0, 1, 2])
def test_gradient_at_the_exit_step_and_no_forward_after_it_but_the_contexts(exit_step):
    networks = {role: Gaussian(1.0) for role in ("fake_score", "teacher")} | {"student": Noted()}
    data = batch(shape=(1, 9, 2, 2))
    SelfForcing(teacher_guidance=1.0).student_loss(networks, data, exit_at(exit_step), {})
    chunk = [False] * exit_step + [True]
    wanted = [(start, False, grad) for start in (0, 3, 6) for grad in [*chunk, "context"]]
    wanted = [(start, grad == "context", grad is True) for start, _, grad in wanted][:-1]  # nobody sees the last chunk
    assert networks["student"].kinds() == wanted

    networks["student"] = Noted()
    SelfForcing().fake_score_loss(networks, data, exit_at(exit_step), {})
    assert networks["student"].kinds() == [(start, kept, False) for start, kept, _ in wanted]


@dataclass(frozen=True)
class Leaves(StatelessRng):
    """The run's randomness; the rollout's first noise asks for a gradient."""

    leaves: dict = field(default_factory=dict)

    def noise(self, purpose, sample_ids, shape):
        drawn = super().noise(purpose, sample_ids, shape)
        return self.leaves.setdefault(purpose, drawn.requires_grad_()) if purpose.endswith("noise-1") else drawn

    def control(self, purpose, high):
        return 0


@pytest.mark.parametrize("samples", [1, 3])
def test_no_gradient_between_chunks(samples):
    """Oracle 19: frame j has a gradient at the noise of its own chunk, and none at that of the chunks before."""
    _, held, data = wans(samples, frames=7)
    rng = Leaves(0)
    x = SelfForcing(independent_first_frame=True).roll_out(held, data, rng, "student", True)
    for frame, own in ((0, {0}), (1, {1, 2, 3}), (3, {1, 2, 3}), (6, {4, 5, 6})):
        (grad,) = torch.autograd.grad(x[:, :, frame].sum(), rng.leaves["student/noise-1"], retain_graph=True)
        assert {i for i in range(7) if grad[:, :, i].any()} == own
    # What is cut off is not without effect: the last chunk does depend on the first one's noise.
    moved = Leaves(0)
    moved.leaves["student/noise-1"] = rng.leaves["student/noise-1"].detach().clone()
    moved.leaves["student/noise-1"][:, :, 0] += 1
    other = SelfForcing(independent_first_frame=True).roll_out(held, data, moved, "student", False)
    assert (other - x)[:, :, 6].abs().max() > 1e-4


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_first_chunk_of_more_steps_in_a_window(guidance):
    """Rollout and sampler: the first chunk is that of a recipe with its steps, and the third no longer sees the
    second."""
    _, held, data = wans(frames=9)
    keys = {"window": 6, "sink": 3, "timesteps": (1000.0, 522.0), "rollout": "ode", "last_step_only": True}
    method = SelfForcing(first_chunk_timesteps=(1000.0, 900.0, 757.0, 300.0), **keys)
    recipe = replace(method.sampler(), guidance_scale=guidance)
    assert recipe.chunks.window == Window(6, 3) and recipe.chunks.first_timesteps[1] == 900.0
    x_T = RNG.noise("student/noise-1", data.sample_ids, data.latent_shape)
    uncond = {"text": torch.ones_like(data.cond["text"])}
    x = sample(held["student"], recipe, x_T, data.cond, uncond, noise=lambda i: None)
    first = replace(recipe, timesteps=recipe.chunks.first_timesteps, chunks=Chunks(3))
    alone = sample(held["student"], first, x_T[:, :, :3], data.cond, uncond, noise=lambda i: None)
    assert torch.equal(x[:, :, :3], alone)
    whole = sample(
        held["student"],
        replace(recipe, chunks=replace(recipe.chunks, window=None)),
        x_T,
        data.cond,
        uncond,
        noise=lambda i: None,
    )
    assert torch.equal(x[:, :, :6], whole[:, :, :6]) and (x - whole).abs().max() > 1e-4  # frames 3 to 5 have left
    if guidance == 1.0:
        assert torch.equal(x, method.roll_out(held, data, RNG, "student", False))


def test_guidance_sees_the_past_of_both_prompts():
    """Two chunks at one step: what comes out is x_T - (u + s (c - u)), where c and u are velocities in one masked
    forward of the finished first chunk and the noise, each under its own prompt."""
    _, held, data = wans()
    uncond = {"text": torch.ones_like(data.cond["text"])}
    recipe = Sampler((1000.0,), "ode", 3.0, Chunks(3))
    x_T = RNG.noise("x_T", data.sample_ids, data.latent_shape)
    x = sample(held["student"], recipe, x_T, data.cond, uncond, noise=lambda i: None)
    shown = torch.cat([x[:, :, :3], x_T[:, :, 3:]], dim=2)
    sigma = torch.tensor([0.0] * 3 + [1.0] * 3).expand(2, -1)
    c, u = (held["student"](shown, sigma, text, chunks=(3, 3)).velocity[:, :, 3:] for text in (data.cond, uncond))
    torch.testing.assert_close(x[:, :, 3:], x_T[:, :, 3:] - (u + 3 * (c - u)), atol=1e-5, rtol=0)
    assert recipe.nfe == 4


# What is remembered


def remembered(method, shape=(1, 9, 2, 2)):
    networks = {"student": Noted()}
    x = method.roll_out(networks, batch(shape=shape), exit_at(1), "student", True)
    return x.detach(), [call for call in networks["student"].calls if call["remember"]]


def test_without_context_noise_the_clean_chunk_is_remembered_at_zero():
    x, calls = remembered(SelfForcing())
    assert [call["past"] for call in calls] == [0, 3]
    for start, call in zip((0, 3), calls, strict=True):
        assert torch.equal(call["x_t"], x[:, :, start : start + 3])
        assert call["sigma"].tolist() == [0.0] * 4


def test_context_noise():
    """(1 - c) x + c eps at sigma c, with an eps of its own for each frame."""
    x, calls = remembered(SelfForcing(context_noise=250.0))
    eps = [(call["x_t"] - 0.75 * x[:, :, at : at + 3]) / 0.25 for at, call in zip((0, 3), calls, strict=True)]
    assert all(call["sigma"].tolist() == [0.25] * 4 for call in calls)
    drawn = torch.cat(eps, dim=2)
    torch.testing.assert_close(drawn, RNG.noise("student/noise3", torch.arange(4), (1, 9, 2, 2))[:, :, :6])
    assert not torch.allclose(eps[0], eps[1])


# Exit steps


def exits(method, step, chunks=3):
    return [method.exit_step(RNG.at(step), "student", chunk) for chunk in range(chunks)]


def test_exit_steps_are_uniform():
    """Oracle 19: chi^2 over 10,000 draws, for one exit of all chunks and for those of each."""
    for same in (True, False):
        drawn = np.array(
            [exits(SelfForcing(same_step_across_blocks=same), step, 2) for step in range(5000 * (1 + same))]
        )
        assert (drawn[:, 0] == drawn[:, 1]).all() == same
        assert chisquare(np.bincount(drawn[:, 0] if same else drawn.ravel(), minlength=3)).pvalue > 1e-3
        if not same:  # and independent of each other
            assert chisquare(np.bincount(3 * drawn[:, 0] + drawn[:, 1], minlength=9)).pvalue > 1e-3


def test_last_step_only():
    for same in (True, False):
        method = SelfForcing(last_step_only=True, same_step_across_blocks=same)
        assert all(exits(method, step) == [2, 2, 2] for step in range(20))
    networks = {"student": Noted()}
    SelfForcing(last_step_only=True).roll_out(networks, batch(shape=(1, 6, 2, 2)), RNG, "student", True)
    assert [call["sigma"][0].item() for call in networks["student"].calls] == pytest.approx(
        [1.0, 0.757, 0.522, 0.0, 1.0, 0.757, 0.522]
    )


def test_each_chunk_may_leave_at_its_own_step():
    rng = Exits(0, by_name=(("student/exit", 2), ("student/exit1", 0), ("student/exit2", 1)))
    networks = {"student": Noted()}
    method = SelfForcing(same_step_across_blocks=False)
    method.roll_out(networks, batch(shape=(1, 9, 2, 2)), rng, "student", True)
    kinds = networks["student"].kinds()
    assert [sum(start == past and not kept for past, kept, _ in kinds) for start in (0, 3, 6)] == [3, 1, 2]
    assert sum(grad for *_, grad in kinds) == 3


def test_the_score_window_follows_the_exit_that_all_chunks_share():
    """From and to are unknown where each chunk has its own, and the flags then do nothing."""
    flags = {"ts_schedule": True, "ts_schedule_max": True, "min_score_timestep": 20, "timesteps": STEPS}
    assert SelfForcing(**flags).exit_window(exit_at(1), "student") == (522, 757)
    assert SelfForcing(**flags, last_step_only=True).exit_window(RNG, "student") == (0, 522)
    assert SelfForcing(**flags, same_step_across_blocks=False).exit_window(RNG, "student") == (20, 1000)


# Frames


@pytest.mark.parametrize(("bound", "frames"), [(21, 9), (9, 9), (8, 6), (6, 6), (3, 3)])
def test_the_bound_on_training_frames(bound, frames):
    """It bounds what is rolled out, scored and descended; whole chunks within it."""
    networks = {"student": Noted(), "fake_score": Gaussian(0.5), "teacher": Gaussian(2.0)}
    data, method = batch(shape=(1, 9, 2, 2)), SelfForcing(num_training_frames=bound, teacher_guidance=1.0)
    x = method.roll_out(networks, data, exit_at(0), "student", True)
    assert x.shape == (4, 1, frames, 2, 2)
    assert max(call["past"] + call["x_t"].shape[2] for call in networks["student"].calls) == frames
    for loss in (method.student_loss, method.fake_score_loss):
        assert loss(networks, data, exit_at(0), {}).loss.isfinite()


def test_the_head_of_a_run_says_what_the_bound_comes_to():
    """28 latent frames, as a seed has it, are no whole number of chunks of 3."""
    assert (
        SelfForcing(num_training_frames=28)
        .describe()
        .endswith("chunks of 3 latent frames; rollouts of at most 27 (num_training_frames = 28)")
    )
    assert (
        "the first of 1; rollouts of at most 28"
        in SelfForcing(num_training_frames=28, independent_first_frame=True).describe()
    )


def test_a_shorter_clip_is_the_start_of_the_long_one():
    """The bound takes frames away at the end, and gives the ones before what a clip of that length gives them."""
    _, held, data = wans(frames=9)
    short = replace(data, latent_shape=(4, 6, 4, 4))
    cut = SelfForcing(num_training_frames=7).roll_out(held, data, exit_at(1), "student", False)
    assert torch.equal(cut, SelfForcing().roll_out(held, short, exit_at(1), "student", False))


@pytest.mark.parametrize(
    ("frames", "chunks", "lengths"),
    [
        (21, Chunks(3), (3,) * 7),
        (22, Chunks(3, True), (1,) + (3,) * 7),
        (31, Chunks(3, True), (1,) + (3,) * 10),
        (1, Chunks(3, True), (1,)),
        (2, Chunks(1), (1, 1)),
    ],
)
def test_chunk_lengths(frames, chunks, lengths):
    assert chunk_lengths(frames, chunks) == lengths


@pytest.mark.parametrize(
    ("frames", "chunks", "remedy"),
    [
        # 121 frames of a video are 31 latent frames.
        (
            31,
            Chunks(3),
            r"31 latent .* use 30 or 33 \(data.frames = 117 or 129\); or set independent_first_frame = true",
        ),
        (21, Chunks(3, True), r"use 19 or 22 \(data.frames = 73 or 85\); or set independent_first_frame = false"),
        (5, Chunks(3), r"use 3 or 6 \(data.frames = 9 or 21\)$"),
        (2, Chunks(3), r"use 3 \(data.frames = 9\)$"),
    ],
)
def test_frames_that_do_not_divide(frames, chunks, remedy):
    with pytest.raises(ValueError, match=remedy) as error:
        chunk_lengths(frames, chunks, lambda latent: 4 * latent - 3)
    assert "num_frame_per_block = 3" in str(error.value)
    method = SelfForcing(independent_first_frame=chunks.independent_first)
    with pytest.raises(
        ValueError, match=re.sub(r" \\\(.*?\\\)", "", remedy)
    ):  # though the bound on training frames would allow a rollout
        method.roll_out({"student": Noted()}, batch(shape=(1, frames, 2, 2)), RNG, "student", True)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"num_frame_per_block": 0}, "num_frame_per_block = 0: use 1"),
        ({"sink": 3}, "sink = 3: without a window"),
        ({"window": 10}, "window = 10: .* whole chunks of 3 latent frames; use 9 or 12"),
        ({"window": 9, "sink": 2}, "sink = 2: a sink holds whole chunks; use 0, 3 or 6"),
        ({"window": 9, "sink": 3, "independent_first_frame": True}, "sink = 3: .* use 0, 1 or 4"),
        ({"window": 3, "sink": 3}, "window = 3: beside sink = 3 .* use 6 or 9"),
        ({"first_chunk_timesteps": (500.0, 1000.0)}, "first_chunk_timesteps = .* strictly decreasing"),
        (
            {"first_chunk_timesteps": (900.0,), "student_exits": (1, 0, 2)},
            r"student_exits = \[1, 0, 2\]: .* remove one",
        ),
        ({"first_chunk_timesteps": (900.0,), "fake_score_exits": (1, 0, 2)}, "fake_score_exits = .* remove one"),
        ({"num_training_frames": 2}, "num_training_frames = 2: no chunk fits; use at least 3"),
        ({"num_training_frames": 0, "independent_first_frame": True}, "use at least 1"),
        ({"context_noise": -1.0}, "context_noise = -1.0"),
        ({"context_noise": 1000.0}, "context_noise = 1000.0"),
        ({"backward_simulation": False}, "backward_simulation = False: .* use dmd"),
        ({"timesteps": (500.0, 1000.0)}, "strictly decreasing"),
    ],
)
def test_bad_keys_are_named(bad, message):
    with pytest.raises(ValueError, match=message):
        SelfForcing(**bad)


# Losses


def test_the_gradient_between_two_gaussians():
    """Oracle 2 through chunks: a student of elementwise x_0 gets g / N at every frame."""

    class Says(torch.nn.Module):
        def __init__(self, shape):
            super().__init__()
            self.x_0 = torch.nn.Parameter(torch.zeros(shape))

        def forward(self, x_t, sigma, cond, *, cache=None, remember=False):
            x_0 = self.x_0[:, :, cache.frames : cache.frames + x_t.shape[2]]
            if remember:
                cache.frames += x_t.shape[2]
            return Prediction((x_t - x_0) / sigma.reshape(-1, 1, 1, 1, 1))

    student = Says((4, 1, 6, 2, 2))
    networks = {"student": student, "fake_score": Gaussian(0.0), "teacher": Gaussian(2.0)}
    window = {"score_min": 0.5 - 1e-7, "score_max": 0.5, "min_norm": 1000.0, "teacher_guidance": 1.0}
    method = SelfForcing(timesteps=(1000.0,), **window)
    method.student_loss(networks, batch(shape=(1, 6, 2, 2)), RNG, {}).loss.backward()
    wanted = torch.full_like(student.x_0, -1.6 / 1000 / student.x_0.numel())
    torch.testing.assert_close(student.x_0.grad, wanted, rtol=1e-3, atol=0)


@pytest.mark.parametrize(("loss", "role"), [("student_loss", "student"), ("fake_score_loss", "fake_score")])
@pytest.mark.parametrize("samples", [1, 3])
def test_an_update_reaches_its_role_alone(loss, role, samples):
    networks, held, data = wans(samples)
    getattr(SelfForcing(), loss)(held, data, RNG, {}).loss.backward()
    own = touched(networks.pop(role))
    assert sum(own) > 0.9 * len(own)
    assert all(p.grad is None for network in networks.values() for p in network.parameters())


def test_a_loss_is_a_function_of_the_seed():
    _, held, data = wans()
    method = SelfForcing(context_noise=50.0, same_step_across_blocks=False)
    for loss in (method.student_loss, method.fake_score_loss):
        one, again, other = (loss(held, data, StatelessRng(seed, 3), {}).loss for seed in (0, 0, 1))
        assert torch.equal(one, again) and not torch.equal(one, other)


def test_micro_batches_sum_up_to_the_batch():
    networks = {"fake_score": Gaussian(0.0), "teacher": Gaussian(2.0)}
    for name in ("student_loss", "fake_score_loss"):
        loss = getattr(SelfForcing(teacher_guidance=1.0, context_noise=50.0), name)
        parts = [
            loss(networks | {"student": Noted()}, batch(ids, (1, 6, 2, 2)), RNG, {}).loss for ids in ([0, 1], [2, 3])
        ]
        whole = loss(networks | {"student": Noted()}, batch(shape=(1, 6, 2, 2)), RNG, {}).loss
        torch.testing.assert_close(torch.stack(parts).mean(), whole)


def test_the_recipe_says_how_the_student_is_sampled():
    recipe = SelfForcing(timesteps=STEPS, independent_first_frame=True, context_noise=20.0).sampler()
    assert recipe.chunks == Chunks(3, True, 20.0) and recipe.timesteps == STEPS
    assert recipe.nfe == 4 and DMD(timesteps=STEPS).sampler().nfe == 3
