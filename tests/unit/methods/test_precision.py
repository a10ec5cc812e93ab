"""bf16's rounding against what LCM and DCM compare: the closed form, what is logged, and what is warned of."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ray_distill.config.load import load_config
from ray_distill.diffusion.consistency import BF16_ERROR, CLEAR, bf16_ratios, bf16_rounding, bf16_share, solver_phases
from ray_distill.methods.dcm import DCM
from ray_distill.methods.dcm_fine import DCMFine
from ray_distill.methods.dmd import DMD
from ray_distill.methods.lcm import LCM
from ray_distill.methods.watch import LAG_WINDOW, warnings

CONFIGS = Path(__file__).parents[3] / "configs"


def at(phases, ratios, sigma):
    return next(r for level, r in zip(phases.levels[1:], ratios, strict=True) if abs(level - sigma) < 5e-4)


def test_dcms_detail_expert_as_published():
    """50 Euler steps, shift 17, guidance 6: measured on the digits teacher 0.39 at 0.905 and 1.44 at 0.975."""
    fine = DCMFine()
    assert (fine.euler_steps, fine.shift, fine.scale) == (50, 17.0, 6.0)
    ratios = bf16_ratios(fine.phases, fine.scale)
    assert at(fine.phases, ratios, 0.905) == pytest.approx(0.39, rel=0.05)
    assert at(fine.phases, ratios, 0.975) == pytest.approx(1.44, rel=0.05)
    assert ratios[0] == 0 and all(a < b for a, b in zip(ratios, ratios[1:], strict=False))


def test_the_closed_form_by_hand():
    """Levels 0, 0.5, 1 at scale 2: h = 0.5; sqrt(2) / 100 over 0.5 hypot(2 x 0.5, 0.74)."""
    phases = solver_phases(2, 1.0, 0.0, 1.0)
    assert bf16_rounding(phases) == pytest.approx([0.5 * math.sqrt(2) * BF16_ERROR, math.sqrt(2) * BF16_ERROR])
    assert bf16_ratios(phases, 2.0) == pytest.approx([0.0, math.sqrt(2) / 100 / (0.5 * math.hypot(1.0, 0.74))])


def test_each_phase_starts_anew():
    whole, cut = solver_phases(50, 17.0, 0.001, 0.7), solver_phases(50, 17.0, 0.001, 0.7, 3)
    assert max(bf16_ratios(cut, 6.0)) < CLEAR < max(bf16_ratios(whole, 6.0))
    assert [bf16_ratios(cut, 6.0)[k] for k in cut.edges] == [0, 0, 0]
    assert bf16_ratios(cut, 6.0)[1] == bf16_ratios(whole, 6.0)[1]


def test_the_share_is_the_ratio_as_bf16_shows_it():
    """x_t at distance 1 and a signal s under noise n: sqrt(2) / 100 over hypot(s, n)."""
    g = torch.Generator().manual_seed(0)
    noise = math.sqrt(2) * BF16_ERROR
    prediction = torch.randn(2, 4, 8, 8, 8, generator=g)
    x_t = prediction + torch.randn(prediction.shape, generator=g)
    signal = torch.tensor([10 * noise, noise]).reshape(2, 1, 1, 1, 1) * torch.randn(prediction.shape, generator=g)
    aim = prediction - signal - noise * torch.randn(prediction.shape, generator=g)
    wanted = torch.tensor([0.1 / math.hypot(1, 0.1), 1 / math.hypot(1, 1)])
    torch.testing.assert_close(bf16_share(prediction, aim, x_t), wanted, rtol=0.05, atol=0)
    assert bf16_share(prediction, prediction, x_t).isfinite().all()  # nothing to compare


def test_what_is_warned_of_before_a_run():
    first, second = DCMFine().warnings(bf16=True)
    assert "about 1.39 of their difference at timestep 975.4" in first and "above 0.2 at 23 of 35 levels" in first
    assert "30% of the elements push the wrong way" in first and "method.multiphase" in first
    assert "method.huber_c = 0.001" in second and "Use 0.03 or more" in second
    assert DCMFine().warnings(bf16=False) == [] == DMD().warnings(bf16=True)
    assert DCM().warnings(bf16=True) == []  # the semantic expert's ways are short
    square = LCM(shift=8.0, guidance=6.0, loss="l2")
    (only,) = square.warnings(bf16=True)
    assert "huber_c" not in only and "method.shift" in only
    weak, strong = (LCM(euler_steps=12, guidance=scale, huber_c=0.1).warnings(bf16=True) for scale in (1.0, 6.0))
    assert len(weak) == 1 and strong == []  # what guidance adds is signal


@pytest.mark.parametrize("method", [DCMFine(), LCM(shift=8.0, guidance=6.0), LCM(shift=17.0, guidance=(3.0, 6.0))])
def test_the_remedy_for_huber_c_ends_its_warning(method):
    (text,) = [text for text in method.warnings(bf16=True) if "huber_c" in text]
    enough = float(text.partition("Use ")[2].partition(" ")[0])
    assert not [text for text in replace(method, huber_c=enough).warnings(bf16=True) if "huber_c" in text]


def test_shipped_settings_are_clear_of_it():
    shipped = [
        path for path in sorted(CONFIGS.rglob("*.yaml")) if path.stem.startswith(("lcm", "dcm", "causal_consistency"))
    ]
    runs = {path: load_config(path, environment={}).config for path in shipped}
    assert sum(config.computes_in_bf16 for config in runs.values()) >= 3
    assert {path: config.method.warnings(config.computes_in_bf16) for path, config in runs.items()} == {
        path: [] for path in runs
    }


def test_a_bf16_run_whose_rows_show_it_is_told_once():
    rows = [{"step": float(step), "bf16_share": 0.5} for step in range(3 * LAG_WINDOW)]
    assert warnings(rows) == [] == warnings(rows[: LAG_WINDOW - 1], bf16=True)
    (text,) = {text for n in range(len(rows) + 1) for text in warnings(rows[:n], bf16=True)}
    assert text.startswith(f"step {LAG_WINDOW - 1}: bf16's rounding is about 0.50")
    assert warnings([row | {"bf16_share": 0.1} for row in rows], bf16=True) == []
