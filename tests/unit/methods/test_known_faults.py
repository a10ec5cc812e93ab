"""The faults that were found in another tool's DMD, each held by a test: here, or where ``ELSEWHERE`` says."""

import ast
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from ray_distill.diffusion.flow import add_noise, velocity, x_0_from_velocity
from ray_distill.methods import DMD
from ray_distill.models.wan.network import WanDenoiser
from ray_distill.rng import StatelessRng
from tests.tiny_wan import SHAPE, TEXT, tiny_wan
from tests.unit.toys import Gaussian, batch

RNG = StatelessRng(0)
TESTS = Path(__file__).parents[2]

ELSEWHERE = {
    "the teacher is the student": "gang/test_engines.py::test_worlds_stages_and_accumulation_agree",
    "the teacher moves with its adapters": "gang/test_engines.py::test_adapters_agree_and_their_base_stays",
    "gradients at every step": "unit/methods/test_dmd.py::test_gradient_at_the_exit_step_and_no_forward_after_it",
    "exits differ between ranks": "unit/methods/test_dmd.py::test_exit_steps_depend_on_the_step_alone",
    "a skipped student moves": "gang/test_engines.py::test_a_role_that_is_not_updated_stays_bit_identical",
    "a broken update moves a rank": "gang/test_engines.py::test_one_bad_rank_makes_all_ranks_skip",
    "fake scores drift apart": "gang/test_engines.py::test_the_fake_scores_gradient_is_that_of_all_ranks",
    "a failing fake score is passed over": "unit/train/test_step.py::test_a_failing_fake_score_update_raises",
    "bf16 swallows small steps": "gang/test_engines.py::test_masters_move_where_bf16_would_not",
    "bf16 swallows the average": "unit/train/test_adamw.py::test_fp32_moves_where_bf16_would_not",
    "an average of copies rests": "gang/test_engines.py::"
    "test_the_average_follows_masters_of_which_deepspeed_returns_copies",
    "scores are subtracted in bf16": "unit/diffusion/test_losses.py::test_bf16_scores_are_subtracted_in_fp32",
    "one normaliser for a batch": "unit/diffusion/test_losses.py::test_the_normaliser_is_per_sample",
    "the score's shift has no effect": "unit/diffusion/test_timesteps.py::test_score_sigma_shifts_then_clamps",
    "a scale of unknown form": "unit/methods/test_dmd.py::test_fixed_point_of_guidance",
    "guidance of nothing": "unit/methods/test_dmd_modes.py::test_guidance_without_negative_embeddings_is_refused",
    "values that do not clip": "gang/test_engines.py::test_norm_and_value_clip_under_every_stage",
    "a schedule that is not known": "unit/train/test_schedule.py::test_closed_forms",
    "training and validation sample differently": "unit/methods/test_dmd.py::test_the_rollout_is_the_sampler",
}


@pytest.mark.parametrize("fault", ELSEWHERE)
def test_a_fault_that_is_held_elsewhere_is_still_held_there(fault):
    path, _, name = ELSEWHERE[fault].partition("::")
    tree = ast.parse((TESTS / path).read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_the_network_is_told_1000_where_it_is_shown_noise():
    """Sigma runs from 1, noise, to 0, data, up to Wan's own arguments; one level for all frames of a sample."""
    network, seen = tiny_wan(0), []
    network.register_forward_pre_hook(lambda module, args, given: seen.append(given), with_kwargs=True)
    text = RNG.noise("text", torch.arange(2), TEXT)
    data = batch(range(2), SHAPE, cond={"text": text}, x_0=torch.full((2, *SHAPE), 5.0))

    class Last(StatelessRng):
        def control(self, purpose, high):
            return high - 1

    method, student = DMD((1000.0, 20.0), backward_simulation=False), WanDenoiser(network)
    with torch.no_grad():
        method.roll_out({"student": student}, data, Last(0), "student", False)
        DMD((1000.0,)).roll_out({"student": student}, data, RNG, "student", False)
    late, first = seen
    assert first["timestep"].tolist() == [1000.0] * 2 and late["timestep"].tolist() == pytest.approx([20.0] * 2)
    assert torch.equal(first["hidden_states"], RNG.noise("student/noise-1", data.sample_ids, SHAPE))
    assert (late["hidden_states"] - 0.98 * 5.0).std().item() == pytest.approx(0.02, rel=0.2)


@pytest.mark.parametrize("sigma", [0.001, 0.5, 0.98, 1.0])
def test_x_0_comes_back_from_its_velocity(sigma):
    """x_0 = 2, which a division by 1 - sigma would make 100 at sigma = 0.98, and what is not finite at 1."""
    x_0, eps, level = (
        torch.full((1, 1, 1, 2, 2), 2.0),
        RNG.noise("eps", torch.arange(1), (1, 1, 2, 2)),
        torch.tensor([sigma]),
    )
    found = x_0_from_velocity(add_noise(x_0, eps, level), velocity(x_0, eps), level)
    torch.testing.assert_close(found, x_0, atol=1e-5, rtol=0)


def test_channels_and_frames_are_not_mixed_up():
    """C = 4, T = 3: without its blocks Wan is a map of patches, so each patch of each frame answers to itself alone. A
    reshape in the place of a permutation would spread it over frames."""
    network = tiny_wan(0)
    network.blocks = torch.nn.ModuleList()
    x_t = RNG.noise("x", torch.arange(2), SHAPE).requires_grad_()
    cond = {"text": RNG.noise("text", torch.arange(2), TEXT)}
    v = WanDenoiser(network)(x_t, torch.tensor([0.3, 0.8]), cond).velocity
    assert v.shape == x_t.shape
    for sample, frame, row, column in ((0, 0, 0, 0), (1, 1, 2, 1), (0, 2, 3, 3)):
        (grad,) = torch.autograd.grad(v[sample, :, frame, row, column].sum(), x_t, retain_graph=True)
        patch = torch.zeros_like(x_t, dtype=torch.bool)
        patch[sample, :, frame, row // 2 * 2 : row // 2 * 2 + 2, column // 2 * 2 : column // 2 * 2 + 2] = True
        assert torch.equal(grad != 0, patch)


def outcome(method):
    """All that a configuration changes: who is updated when, by which losses, and how the student is sampled."""
    networks = {"student": Gaussian(1.0), "fake_score": Gaussian(), "teacher": Gaussian()}
    data = batch(range(8), (1, 1, 2, 2), x_0=torch.full((8, 1, 1, 2, 2), 3.0))
    found = [str(method.sampler())]
    for step in range(6):
        shared = {}
        for update in method.updates(step):
            found.append(
                f"{step} {update.role} {update.pulls} {update.loss(networks, data, RNG.at(step), shared).loss.item()}"
            )
    return found


BASE = DMD((1000.0, 750.0, 500.0), student_interval=2, teacher_guidance=3.0)
CHANGED = {
    "timesteps": (BASE, (1000.0, 500.0)),
    "warp_denoising_step": (replace(BASE, flow_shift=5.0), True),
    "flow_shift": (replace(BASE, warp_denoising_step=True), 5.0),
    "rollout": (BASE, "ode"),
    "backward_simulation": (BASE, False),
    "student_interval": (BASE, 3),
    "student_turn": (BASE, "replaces"),
    "reuse_rollout": (BASE, True),
    "ida_decay": (BASE, 0.97),
    "teacher_guidance": (BASE, 4.0),
    "teacher_guidance_form": (BASE, "extra"),
    "fake_score_guidance": (BASE, 1.2),
    "fake_score_guidance_form": (replace(BASE, fake_score_guidance=1.2), "extra"),
    "fake_score_target": (BASE, "x_0"),
    "score_shift": (BASE, 7.0),
    "score_min": (BASE, 0.3),
    "score_max": (BASE, 0.7),
    "ts_schedule": (BASE, True),
    "ts_schedule_max": (BASE, True),
    "min_score_timestep": (BASE, 400),
    "min_norm": (BASE, 10.0),
    "student_exits": (BASE, (0, 0, 1)),
    "fake_score_exits": (BASE, (0, 0, 1)),
    "projection": (BASE, True),
    "diversity_weight": (BASE, 0.5),
    "diversity_steps": (replace(BASE, diversity_weight=0.5), 4),
    "diversity_shift": (replace(BASE, diversity_weight=0.5), 2.0),
    "consistency_weight": (replace(BASE, rollout="ode"), 0.5),
}


def test_every_key_is_tried():
    elsewhere = {
        "exit_embedding",
        "video_weight",
        "audio_weight",
        "audio_guidance",
    }  # test_exits, test_modalities, test_ltx2
    assert CHANGED.keys() | elsewhere == {field.name for field in fields(DMD)}


@pytest.mark.parametrize("key", CHANGED)
def test_no_key_is_read_nowhere(key):
    base, value = CHANGED[key]
    assert outcome(base) == outcome(base)
    assert outcome(replace(base, **{key: value})) != outcome(base)
