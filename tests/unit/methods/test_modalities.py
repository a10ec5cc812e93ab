"""Picture and sound in one tensor: each modality by a normaliser, a mean and a weight of its own."""

from dataclasses import replace

import pytest
import torch

from ray_distill.diffusion.losses import dmd_gradient, sample_mse
from ray_distill.diffusion.prefix import generated, generated_places
from ray_distill.diffusion.samplers import sample
from ray_distill.diffusion.timesteps import shift_sigma
from ray_distill.methods import DMD, LCM, METHODS
from ray_distill.models.packed import layout, modalities, picture, prefix_length, sound, tensor_shape, with_layout
from ray_distill.rng import StatelessRng
from ray_distill.types import Prediction, Sampler
from tests.unit.toys import batch

LATENT = (2, 2, 5, 10, 1)
"""100 tokens of picture and one of sound, as in oracle 40."""
WHERE = modalities(LATENT)
COND = {"text": torch.ones(4, 1, 1)}


def packed(video, audio):
    return torch.cat([torch.full((1, 2, 100, 1, 1), video), torch.full((1, 2, 1, 1, 1), audio)], dim=2)


def packed_batch(**kwargs):
    return batch(range(4), tensor_shape(LATENT), modalities=WHERE, **kwargs)


def test_the_levels_of_two_modalities():
    """Oracle 40: four steps at the shifts 12 and 3; the level of sound beside a level of the picture."""
    u = torch.tensor([1.0, 0.75, 0.5, 0.25], dtype=torch.float64)
    assert shift_sigma(u, 12.0).tolist() == pytest.approx([1.0, 0.973, 0.923, 0.8], abs=5e-4)
    assert shift_sigma(u, 3.0).tolist() == pytest.approx([1.0, 0.9, 0.75, 0.5], abs=5e-4)
    assert shift_sigma(torch.tensor(0.9, dtype=torch.float64), 3 / 12).item() == pytest.approx(0.6923076923, abs=1e-10)


def test_one_normaliser_a_modality():
    """Oracle 40: mean abs(x - mu_real) is 1 of the picture and 0.1 of the sound, mu_fake - mu_real 0.1 of both."""
    x, mu_real, mu_fake = packed(1.0, 0.1), packed(0.0, 0.0), packed(0.1, 0.1)
    given = packed_batch()
    g, norm, logs = DMD().direction(x, mu_fake, mu_real, torch.tensor([0.5]), given)
    assert g[:, :, WHERE["video"]].unique().tolist() == pytest.approx([0.1])
    assert g[:, :, WHERE["audio"]].unique().tolist() == pytest.approx([1.0])
    assert norm.tolist() == pytest.approx([0.1]) and logs["dmd_norm_video_median"].tolist() == pytest.approx([1.0])
    both, _ = dmd_gradient(x, mu_fake, mu_real)  # the fault: one normaliser over both
    assert both.unique().tolist() == pytest.approx([0.1009], abs=5e-5)
    assert not torch.allclose(g, both)


def test_each_modality_has_a_mean_and_a_weight():
    a, b = packed(2.0, 5.0), packed(0.0, 0.0)
    plain = DMD().weighed(sample_mse, packed_batch(), a, b)
    assert plain.tolist() == pytest.approx([4.0 + 25.0])
    assert DMD(audio_weight=0.1).weighed(sample_mse, packed_batch(), a, b).tolist() == pytest.approx([4.0 + 2.5])
    assert DMD(video_weight=0.0).weighed(sample_mse, packed_batch(), a, b).tolist() == pytest.approx([25.0])
    one = DMD(audio_weight=0.1).weighed(sample_mse, batch(range(4), tensor_shape(LATENT)), a, b)
    assert torch.equal(one, sample_mse(a, b))
    for wrong in ({"audio_weight": -1.0}, {"audio_weight": 0.0, "video_weight": 0.0}):
        with pytest.raises(ValueError, match="video_weight, audio_weight"):
            DMD(**wrong)


FRAME = prefix_length(1, LATENT)


def test_the_tokens_of_a_given_frame_are_in_no_mean_and_in_no_normaliser():
    """Oracle 40 where the picture has 150 tokens, of which 50 are given: g, n and the losses are those of 100."""
    whole = (2, 3, 5, 10, 1)
    given = batch(range(4), tensor_shape(whole), modalities=modalities(whole), prefix=FRAME)
    x, mu_real, mu_fake = packed(1.0, 0.1), packed(0.0, 0.0), packed(0.1, 0.1)
    front = torch.full((1, 2, FRAME, 1, 1), 7.0)
    cut = [generated(torch.cat([front * scale, each], dim=2), FRAME) for scale, each in ((1, x), (2, mu_fake))]
    assert FRAME == 50 and torch.equal(cut[0], x)
    g, norm, logs = DMD().direction(*cut, mu_real, torch.tensor([0.5]), given)
    right, right_norm, right_logs = DMD().direction(x, mu_fake, mu_real, torch.tensor([0.5]), packed_batch())
    assert torch.equal(g, right) and torch.equal(norm, right_norm) and logs == right_logs
    losses = DMD(audio_weight=0.5).by_modality(sample_mse, given, packed(2.0, 5.0), packed(0.0, 0.0))
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx({"video": 4.0, "audio": 12.5})
    wrong = DMD().by_modality(sample_mse, replace(given, prefix=0), packed(2.0, 5.0), packed(0.0, 0.0))
    assert wrong["video"].item() != pytest.approx(4.0)  # places of whole latents take the sound for picture
    assert generated_places(given.modalities, 0) is given.modalities and prefix_length(2, (2, 3, 5, 10)) == 2


class Scale(torch.nn.Module):
    """A network whose picture depends on its sound."""

    def __init__(self, value):
        super().__init__()
        self.value = torch.nn.Parameter(torch.tensor(value))

    def __call__(self, x_t, sigma, cond, **_):
        assert layout(cond, 2) == LATENT
        return Prediction(self.value * (x_t + x_t[:, :, WHERE["audio"]].mean()))


def losses(method, seed=0):
    networks = {role: Scale(value) for role, value in (("student", 0.5), ("fake_score", 0.7), ("teacher", 0.9))}
    cond = with_layout(COND, LATENT)
    given = packed_batch(cond=cond, uncond=cond, x_0=torch.ones(4, *tensor_shape(LATENT)))
    found = {}
    for update in method.updates(0):
        for role, network in networks.items():
            network.requires_grad_(role == update.role)
        terms = update.loss(networks, given, StatelessRng(seed), {})
        terms.loss.backward()
        moved = [role for role, network in networks.items() if network.value.grad is not None]
        assert moved == [update.role]
        networks[update.role].value.grad = None
        found[update.role] = terms
    return found


def test_updates_of_two_modalities_move_their_own_roles_alone_and_equal_seeds_are_equal():
    method = DMD(student_interval=1, teacher_guidance=1.0)
    first, again, other = losses(method), losses(method), losses(method, seed=1)
    for role, terms in first.items():
        assert torch.equal(terms.loss, again[role].loss) and not torch.equal(terms.loss, other[role].loss)
    logs = first["student"].logs
    assert logs["dmd_video_loss"] + logs["dmd_audio_loss"] == pytest.approx(first["student"].loss.item())
    logs = first["fake_score"].logs
    assert logs["fake_score_video_loss"] + logs["fake_score_audio_loss"] == pytest.approx(
        first["fake_score"].loss.item()
    )


def test_a_weight_of_zero_leaves_sound_to_the_picture():
    """Gradient is that of the picture's loss alone."""
    method = DMD(student_interval=1, teacher_guidance=1.0)
    silent, both = losses(replace(method, audio_weight=0.0)), losses(method)
    assert silent["student"].loss.item() == pytest.approx(both["student"].logs["dmd_video_loss"].item())


def test_lcm_learns_two_modalities():
    (terms,) = losses(LCM(target_decay=0.0)).values()
    assert terms.loss.isfinite() and terms.loss > 0


class Prompted:
    """A network whose velocity is its prompt: guidance u + s (c - u) of 1 and 0 is s. It notes its inputs."""

    def __init__(self):
        self.inputs = []

    def __call__(self, x_t, sigma, cond, **_):
        self.inputs.append(x_t)
        return Prediction(cond["text"].view(-1, 1, 1, 1, 1).expand_as(x_t))


def guided():
    """A batch of zeros whose prompt is 1, and 0 without it."""
    cond = with_layout(COND, LATENT)
    zeros = torch.zeros(4, *tensor_shape(LATENT))
    return packed_batch(cond=cond, uncond=cond | {"text": 0 * COND["text"]}, x_0=zeros)


def by_place(x):
    """(values of the picture, values of the sound) in ``x``, which must be one each."""
    values = [x[:, :, where].unique().tolist() for where in WHERE.values()]
    assert [len(each) for each in values] == [1, 1]
    return [value for (value,) in values]


def test_each_modality_has_a_guidance_of_its_own_in_samples_and_in_a_solver():
    """From x_T at sigma 1 a constant velocity s leads to x_T - s."""
    rows, networks = guided(), {"teacher": Prompted(), "student": Prompted()}
    recipe = Sampler((1000.0, 500.0), "ode", 3.0, audio_guidance_scale=7.0)
    x = sample(Prompted(), recipe, rows.x_0, rows.cond, rows.uncond, noise=lambda _: rows.x_0)
    assert by_place(x) == [-3.0, -7.0]
    alone = sample(Prompted(), recipe, rows.x_0, COND, {"text": 0 * COND["text"]}, noise=lambda _: rows.x_0)
    assert alone.unique().tolist() == [-3.0]
    assert [Sampler((1000.0,), "ode", 1.0, audio_guidance_scale=s).nfe for s in (None, 1.0, 7.0)] == [1, 1, 2]
    warm = METHODS["dmd_warm_start"](solver_guidance=3.0, solver_audio_guidance=7.0, solver_steps=2, pairs=True)
    assert warm.prepared.audio_guidance == 7.0
    x_T = StatelessRng(0).noise("warm_start/noise", rows.sample_ids, rows.latent_shape)
    x_clean = replace(warm, pairs=False).trajectory(networks, rows, StatelessRng(0))[-1] - x_T
    torch.testing.assert_close(x_clean[:, :, WHERE["audio"]], torch.full((4, 2, 1, 1, 1), -7.0))
    torch.testing.assert_close(x_clean[:, :, WHERE["video"]], torch.full((4, 2, 100, 1, 1), -3.0))
    anchored = DMD(diversity_weight=1.0, teacher_guidance=3.0, audio_guidance=7.0)
    loss = anchored.anchor_loss(networks, rows, rows.x_0, (1000.0, 500.0), anchored.teacher_scale, anchored.audio_scale)
    assert loss.item() == pytest.approx((1 - 3) ** 2 + (1 - 7) ** 2)
    flow = METHODS["flow_matching"](sampling_guidance=3.0, sampling_audio_guidance=7.0)
    assert flow.sampler().audio_guidance_scale == 7.0 and flow.sampler().guidance_scale == 3.0


def test_lcm_guides_sound_by_its_own_scale():
    """The teacher's step is (sigma_prev - sigma) s; samples draw their own scale of the picture."""
    student, teacher, rows = Prompted(), Prompted(), guided()
    for guidance, form, audio in ((3.0, "std", 7.0), ((2.0, 4.0), "extra", 8.0)):
        method = LCM(target_decay=0.0, guidance=guidance, guidance_form=form, audio_guidance=7.0)
        student.inputs.clear()
        method.student_loss({"student": student, "teacher": teacher}, rows, StatelessRng(0), {})
        x_n, x_prev = student.inputs
        step = method.phases.draw(StatelessRng(0).uniform("step", rows.sample_ids))
        scales = (x_prev - x_n).flatten(3)[..., 0] / (step.sigma_prev - step.sigma).view(-1, 1, 1)
        torch.testing.assert_close(scales[:, :, WHERE["audio"]], torch.full((4, 2, 1), audio), rtol=1e-3, atol=0)
        picture_scale = scales[:, 0, 0]
        torch.testing.assert_close(scales[:, :, 7], picture_scale[:, None].expand(4, 2), rtol=1e-3, atol=0)
        low, high = method.scales
        assert all(low - 0.01 <= s <= high + 0.01 for s in picture_scale.tolist())


def test_causal_methods_and_those_of_frames_learn_a_picture_alone():
    with_sound = {name for name, method in METHODS.items() if method.with_sound}
    assert with_sound == {"dmd", "dmd_gan", "dmd_warm_start", "lcm", "flow_matching"}


def test_a_tensor_goes_into_its_parts():
    x = torch.arange(2 * 2 * 101.0).reshape(2, 2, 101, 1, 1)
    assert picture(x, LATENT).shape == (2, 2, 2, 5, 10) and sound(x, LATENT).shape == (2, 2, 1)
    assert torch.equal(torch.cat([picture(x, LATENT).flatten(2), sound(x, LATENT)], 2), x[..., 0, 0])
    plain = torch.ones(1, 2, 3, 4, 5)
    assert picture(plain, (2, 3, 4, 5)) is plain and tensor_shape((2, 3, 4, 5)) == (2, 3, 4, 5)
    assert modalities((2, 3, 4, 5)) == {} and with_layout(COND, (2, 3, 4, 5)) is COND
