"""Logs of methods' updates, and warnings from a run's rows.

All tensors are detached, and no code here reads their values, which would wait for the device. A log of shape [B] has
one value per sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ray_distill.diffusion.consistency import CLEAR, bf16_share

BINS = 5
LAG_WINDOW = 50
"""Number of rows, with a fake-score loss or a share of rounding, that make one point of its curve."""
SPREAD_WINDOW = 20
"""Number of student updates that make one point of the spread's curve."""


def student_logs(
    loss: Tensor,
    g: Tensor,
    norm: Tensor,
    finite: Tensor,
    exit_step: int,
    gap: Tensor | None,
    **latents: Tensor,
) -> dict[str, Tensor]:
    """Logs of a student update: ``g`` [B, C, T, H, W], ``norm`` and ``finite`` [B], ``gap`` [B] if guidance
    is on, and the latents whose mean and spread show saturation."""
    logs = {
        "dmd_loss": loss,
        "dmd_gradient": g.abs().flatten(1).mean(1),
        "dmd_norm_min": norm,
        "dmd_norm_median": norm,
        "dmd_nonfinite_count": (~finite).float(),
        "exit_step": torch.tensor(float(exit_step)),
    }
    if gap is not None:
        logs["teacher_guidance_gap"] = gap
    for name, x in latents.items():
        logs |= {f"{name}_mean": x.flatten(1).mean(1), f"{name}_std": x.flatten(1).std(1, correction=0)}
    return {name: value.detach() for name, value in logs.items()}


def projection_logs(share: Tensor, cosine: Tensor, sigma: Tensor) -> dict[str, Tensor]:
    """Logs of a projected update: the removed share of the gradient's length, whole and by sigma, and by sigma the
    cosine of gradient and residual. ``share`` (the kept part) and ``cosine`` are [B]."""
    removed = (1 - share).detach()
    return {
        "projection_removed": removed,
        **by_sigma("projection_removed_by_sigma", removed, sigma),
        **by_sigma("projection_cosine_by_sigma", cosine.detach(), sigma),
    }


def floor_logs(each: Tensor, floor: Tensor, sigma: Tensor) -> dict[str, Tensor]:
    """Logs of a fake-score update: the loss ``each`` [B] and the ``floor`` [B] of a Gaussian, whole and by sigma."""
    each = each.detach()
    return {
        "fake_score_loss": each.mean(),
        "fake_score_over_floor": (each / floor).mean(),
        **by_sigma("fake_score_loss_by_sigma", each, sigma),
        **by_sigma("fake_score_floor_by_sigma", floor, sigma),
    }


def consistency_logs(
    each: Tensor, prediction: Tensor, aim: Tensor, x_t: Tensor, x_0: Tensor, sigma: Tensor
) -> dict[str, Tensor]:
    """Logs of a consistency update: its loss ``each`` [B], whole and by sigma, the spread of the student's predictions
    against the data's, and bf16's rounding as a share of prediction - aim, measured or estimated."""
    each, spread = each.detach(), {"student_std": prediction.detach(), "data_std": x_0}
    logs = {name: x.flatten(1).std(1, correction=0) for name, x in spread.items()}
    share = bf16_share(prediction.detach(), aim, x_t)
    return {
        "consistency_loss": each.mean(),
        "bf16_share": share.mean(),
        **logs,
        **by_sigma("consistency_loss_by_sigma", each, sigma),
        **by_sigma("bf16_share_by_sigma", share, sigma),
    }


def by_sigma(name: str, values: Tensor, sigma: Tensor) -> dict[str, Tensor]:
    """``values`` [B] by bins of sigma [B], NaN for samples of other bins. The names never depend on the draw."""
    bins = torch.arange(BINS, device=sigma.device)
    which = (sigma * BINS).long().clamp_max(BINS - 1) == bins[:, None]
    table = torch.where(which, values, float("nan"))
    return {f"{name}/{i / BINS:.1f}-{(i + 1) / BINS:.1f}": row for i, row in enumerate(table)}


def warnings(rows: Sequence[Mapping[str, float]], bf16: bool = False) -> list[str]:
    """Warnings from a run's rows so far, each a sentence with a remedy; ``bf16``: its networks compute in bf16. More
    rows never change an earlier sentence, so the text identifies a warning that was printed before."""
    return [text for text in (_lag(rows), _saturation(rows), _rounding(rows) if bf16 else "") if text]


def _rounding(rows: Sequence[Mapping[str, float]]) -> str:
    """Warning that bf16's rounding is a large share of the difference in a consistency loss."""
    for step, share in _curve(rows, "bf16_share", LAG_WINDOW):
        if share > CLEAR:
            return (
                f"step {step:.0f}: bf16's rounding is about {share:.2f} of the difference that the loss compares. Use "
                "fewer method.euler_steps, more phases (method.multiphase) or dtype float32"
            )
    return ""


def _lag(rows: Sequence[Mapping[str, float]]) -> str:
    """Warning that the fake score's loss exceeds that of a Gaussian of the student's spread, and grows."""
    curve = _curve(rows, "fake_score_over_floor", LAG_WINDOW)
    for (_, first), (_, second), (step, third) in zip(curve, curve[1:], curve[2:], strict=False):
        if first < second < third and third > max(1.0, 1.1 * first):
            return (
                f"step {step:.0f}: the fake score lags behind the student: its loss is {third:.2f} times that of a "
                f"Gaussian of the student's spread, and grows (it was {first:.2f}). Give it more updates "
                "(method.student_interval 5 to 10), lower roles.student.optimizer.learning_rate, set the betas of "
                "both to [0, 0.999], and keep train.global_batch at 64 or more"
            )
    return ""


def _saturation(rows: Sequence[Mapping[str, float]]) -> str:
    """Warning that the student's spread exceeds the data's (or that of the teacher's predictions) and keeps growing."""
    spread = _curve(rows, "student_std", SPREAD_WINDOW)
    reference = _curve(rows, "data_std", SPREAD_WINDOW) or _curve(rows, "teacher_std", SPREAD_WINDOW)
    for i in range(3, min(len(spread), len(reference))):
        values = [value for _, value in spread[i - 3 : i + 1]]
        growing = all(a < b for a, b in zip(values, values[1:], strict=False))
        if growing and values[-1] > 1.1 * max(values[0], reference[i][1]):
            return (
                f"step {spread[i][0]:.0f}: the student saturates: the spread of its latents grew from {values[0]:.3g} "
                f"to {values[-1]:.3g}, against {reference[i][1]:.3g}. Take an earlier checkpoint or a slower average "
                "(roles.student.ema_decay), and lower method.teacher_guidance to a standard scale of 3 to 4.5"
            )
    return ""


def _curve(rows: Sequence[Mapping[str, float]], name: str, window: int) -> list[tuple[float, float]]:
    """(step, mean) of each complete window of the rows that have ``name``."""
    points = [(row["step"], row[name]) for row in rows if name in row]
    whole = len(points) - len(points) % window
    return [
        (points[i + window - 1][0], sum(value for _, value in points[i : i + window]) / window)
        for i in range(0, whole, window)
    ]


@dataclass(frozen=True)
class Level:
    """A watched number: its ``value`` in the newest window of rows, at ``step``, and the ``threshold`` of its warning,
    which also asks what ``when`` says ("" where the threshold is enough)."""

    name: str
    step: int
    value: float
    threshold: float
    when: str = ""


def levels(rows: Sequence[Mapping[str, float]], bf16: bool = False) -> list[Level]:
    """The numbers that :func:`warnings` judges, as they stand; those that the rows have no whole window of are left
    out."""
    lag = _curve(rows, "fake_score_over_floor", LAG_WINDOW)
    spread = _curve(rows, "student_std", SPREAD_WINDOW)
    reference = _curve(rows, "data_std", SPREAD_WINDOW) or _curve(rows, "teacher_std", SPREAD_WINDOW)
    share = _curve(rows, "bf16_share", LAG_WINDOW) if bf16 else []
    seen = []
    if lag:
        name = "the fake score's loss, as a share of a Gaussian's"
        seen.append(Level(name, int(lag[-1][0]), lag[-1][1], 1.0, "and it grows over three windows"))
    if spread and reference and reference[-1][1] > 0:
        name = "the spread of the student's latents, as a share of its reference's"
        value = spread[-1][1] / reference[-1][1]
        seen.append(Level(name, int(spread[-1][0]), value, 1.1, "and it grows over four windows"))
    if share:
        name = "bf16's rounding, as a share of the difference in the loss"
        seen.append(Level(name, int(share[-1][0]), share[-1][1], CLEAR))
    return seen
