"""Exits: the steps at which rollouts stop, their weights in the draw, and an optional embedding for the fake score.

DMD2 draws exits uniformly, and its fake score does not know which exit made a sample, so DMD2 matches their mixture.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ray_distill.types import FAKE_SCORE, STUDENT, Batch, Cond, Rng

MOST = 100


@dataclass(frozen=True, kw_only=True)
class Exits:
    """The configuration of a method that rolls its student out. ``docs/methods.md`` explains each key."""

    student_exits: tuple[int, ...] = ()
    """Weight of each step in the draw of a student update's last step; empty: all alike."""
    fake_score_exits: tuple[int, ...] = ()
    """Weight of each step in the draw of a fake-score update's last step; empty: all alike."""
    exit_embedding: bool = False
    """Whether the fake score is told the last step of its samples, by a trained embedding."""

    def check_exits(self, steps: int) -> None:
        """ValueError unless each list is empty or has one whole number per step, at least one of them above 0."""
        for key, weights in (("student_exits", self.student_exits), ("fake_score_exits", self.fake_score_exits)):
            if weights and (len(weights) != steps or not any(weights) or not all(0 <= w <= MOST for w in weights)):
                raise ValueError(
                    f"{key} = {list(weights)}: give one whole number from 0 to {MOST} for each of the {steps} steps, "
                    "one of them above 0; with an empty list all steps are equally likely"
                )

    def draw_exit(self, rng: Rng, steps: int, purpose: str, draw: str) -> int:
        """The exit step of a rollout for ``purpose``, from 0; step k has probability w_k / sum w. Equal on all
        ranks."""
        weights = {STUDENT: self.student_exits, FAKE_SCORE: self.fake_score_exits}.get(purpose) or (1,) * steps
        remaining = rng.control(f"{purpose}/{draw}", sum(weights))
        for k, weight in enumerate(weights):
            if remaining < weight:
                return k
            remaining -= weight
        raise AssertionError(f"a draw of {remaining} past the end of {weights}")

    def with_exit(self, batch: Batch, exit_step: int) -> tuple[Cond, Cond]:
        """(cond, uncond) for the fake score, with the exit step of its samples if it takes one."""
        if not self.exit_embedding:
            return batch.cond, batch.uncond
        exits = {"exit": torch.full_like(batch.sample_ids, exit_step)}
        return {**batch.cond, **exits}, {**batch.uncond, **exits}
