"""The shared nouns of the project: roles, networks, samplers, the values of a step, the protocol of a method.

Everything may import this folder; it imports torch and the standard library, and holds no logic. Import its names from
here: `from ray_distill.types import Denoiser`. A new noun owes two users that are not tests.

roles          Role and its names, Average, Start, Need, Heads
network        Denoiser, Discriminator, Prediction, Cond, Window, Cache, History
sampling       Sampler, Chunks, Experts
step           Batch, Rollout, Rng, LossTerms, Update, Pull, Placement
method         Method, Stage, Trajectories, AtSave
"""

from ray_distill.types.method import AtSave, Method, Stage, Trajectories
from ray_distill.types.network import Cache, Cond, Denoiser, Discriminator, History, Networks, Prediction, Window
from ray_distill.types.roles import (
    DISCRIMINATOR,
    FAKE_SCORE,
    FAKE_SCORE_LOW,
    LOW,
    STUDENT,
    STUDENT_EMA,
    STUDENT_LOW,
    TEACHER,
    TEACHER_LOW,
    Average,
    Heads,
    Need,
    Role,
    Start,
)
from ray_distill.types.sampling import Chunks, Experts, Sampler
from ray_distill.types.step import Batch, LossTerms, Placement, Pull, Rng, Rollout, Shared, Update

__all__ = [
    "DISCRIMINATOR",
    "FAKE_SCORE",
    "FAKE_SCORE_LOW",
    "LOW",
    "STUDENT",
    "STUDENT_EMA",
    "STUDENT_LOW",
    "TEACHER",
    "TEACHER_LOW",
    "AtSave",
    "Average",
    "Batch",
    "Cache",
    "Chunks",
    "Cond",
    "Denoiser",
    "Discriminator",
    "Experts",
    "Heads",
    "History",
    "LossTerms",
    "Method",
    "Need",
    "Networks",
    "Placement",
    "Prediction",
    "Pull",
    "Rng",
    "Role",
    "Rollout",
    "Sampler",
    "Shared",
    "Stage",
    "Start",
    "Trajectories",
    "Update",
    "Window",
]
