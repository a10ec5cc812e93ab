"""The two scores of distribution matching: their guidance, and the noise levels at which they are compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ray_distill.diffusion.flow import add_noise
from ray_distill.diffusion.guidance import Form, by_modality, standard_scale
from ray_distill.diffusion.timesteps import score_sigma, score_window
from ray_distill.types import Batch, Rng


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The configuration that methods with a teacher and a fake score share. ``docs/methods.md`` explains each key."""

    teacher_guidance: float = 3.0
    """Guidance of the teacher's score, in the form of teacher_guidance_form."""
    teacher_guidance_form: Form = "std"
    """std: u + s (c - u). extra: c + s (c - u)."""
    audio_guidance: float | None = None
    """Guidance of the teacher's score of sound, in the same form, for clips with sound; null: teacher_guidance."""
    fake_score_guidance: float = 0.0
    """Guidance of the fake score in the student's update; 0 is off."""
    fake_score_guidance_form: Form = "std"
    """std: u + s (c - u). extra: c + s (c - u)."""
    fake_score_target: Literal["velocity", "x_0", "eps"] = "velocity"
    """What the fake score's loss compares: velocity, x_0 (times sigma^2) or eps (times (1 - sigma)^2)."""
    score_shift: float = 1.0
    """Shift of the noise levels at which the scores are compared."""
    score_min: float = 0.02
    """Lowest level of comparison, a sigma, after the shift."""
    score_max: float = 0.98
    """Highest level of comparison, a sigma, after the shift."""
    ts_schedule: bool = False
    """Compare a step's samples at the levels of the next step and above alone, which the next step does not noise
    again."""
    ts_schedule_max: bool = False
    """Compare a step's samples at its own level and below alone."""
    min_score_timestep: int = 0
    """Smallest raw index of a comparison, 0 to 999; no effect under ts_schedule."""
    min_norm: float = 1e-5
    """Smallest normaliser of a sample's DMD gradient."""

    def check_scores(self, timesteps: tuple[float, ...]) -> None:
        """ValueError if a key is out of range, or if the window after one of the student's steps is empty."""
        if not 0 < self.score_min < self.score_max < 1:
            raise ValueError(f"score_min, score_max = {self.score_min}, {self.score_max}: need 0 < min < max < 1")
        if self.score_shift <= 0 or self.min_norm <= 0:
            raise ValueError(f"score_shift, min_norm = {self.score_shift}, {self.min_norm}: both must be above 0")
        if not 0 <= self.min_score_timestep < 1000:
            raise ValueError(f"min_score_timestep = {self.min_score_timestep}: give a raw index from 0 to 999")
        for k, timestep in enumerate(timesteps):
            low, high = self.score_levels(timesteps, k)
            if low >= high:
                raise ValueError(
                    f"ts_schedule, ts_schedule_max, min_score_timestep = {self.ts_schedule}, {self.ts_schedule_max}, "
                    f"{self.min_score_timestep}: no score timestep is left in [{low}, {high}) after step "
                    f"{timestep:g}; change one of these keys"
                )

    @property
    def teacher_scale(self) -> float:
        """Standard scale: u + s (c - u), 1 is off."""
        return standard_scale(self.teacher_guidance, self.teacher_guidance_form)

    @property
    def audio_scale(self) -> float | None:
        """Standard scale of sound; None: that of the picture."""
        audio = self.audio_guidance
        return None if audio is None else standard_scale(audio, self.teacher_guidance_form)

    def teacher_scales(self, batch: Batch, x: Tensor) -> float | Tensor:
        """``teacher_scale``; if sound has its own guidance, a standard scale for each place of ``x`` along T, [1, 1, T,
        1, 1]."""
        return by_modality(self.teacher_scale, self.audio_scale, x, batch.cond)

    @property
    def fake_score_scale(self) -> float:
        """Standard scale of the fake score; a ``fake_score_guidance`` of 0 is off in both forms."""
        return (
            standard_scale(self.fake_score_guidance, self.fake_score_guidance_form) if self.fake_score_guidance else 1.0
        )

    def describe_scores(self) -> str:
        """One line for the head of a run: the guidance that the run applies."""
        sound = "" if self.audio_guidance is None else f", for sound from {self.audio_guidance:g}"
        return (
            f"guidance u + s (c - u), 1 is off: teacher s = {self.teacher_scale:g} (from {self.teacher_guidance:g} "
            f"{self.teacher_guidance_form}{sound}), fake score s = {self.fake_score_scale:g} (from "
            f"{self.fake_score_guidance:g} {self.fake_score_guidance_form})"
        )

    def score_levels(self, timesteps: tuple[float, ...], exit_step: int | None) -> tuple[int, int]:
        """Window [min, max) of the raw score index. Without a common exit step of all chunks the schedule has no
        effect."""
        if exit_step is None:
            return self.min_score_timestep, 1000
        start, end = score_window(timesteps, exit_step, self.score_shift)
        return start if self.ts_schedule else self.min_score_timestep, end if self.ts_schedule_max else 1000

    def diffuse(
        self, x: Tensor, batch: Batch, rng: Rng, purpose: str, window: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(x_s, s, eps): ``x`` with noise at one score level s [B] per sample, equal for all its frames."""
        eps = rng.noise(f"{purpose}/score_eps", batch.sample_ids, x.shape[1:])
        u = rng.uniform(f"{purpose}/score_sigma", batch.sample_ids)
        sigma = score_sigma(u, self.score_shift, self.score_min, self.score_max, window)
        return add_noise(x, eps, sigma), sigma, eps
