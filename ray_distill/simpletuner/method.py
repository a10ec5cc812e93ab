"""The tables of the keys of `distillation_config`, one per method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray_distill.config.keys import ConfigError
from ray_distill.methods import METHODS
from ray_distill.methods.self_forcing import SelfForcing
from ray_distill.simpletuner.dcm import DCM
from ray_distill.simpletuner.lengths import codec_of
from ray_distill.simpletuner.older import DMD_OF_2025
from ray_distill.simpletuner.outcome import File, Key, Outcome, Rule
from ray_distill.simpletuner.rules import form, to
from ray_distill.simpletuner.values import Refused, flag, number, one_of, whole

FAKE_SCORE = "roles.fake_score.optimizer"
WHOLE = "no effect: the student is bidirectional and takes the whole clip as one chunk"


def steps(value: Any, file: File) -> Outcome:
    numbers = [each for each in value.split(",") if each.strip()] if isinstance(value, str) else value
    if not isinstance(numbers, list | tuple):
        numbers = [numbers]
    return Outcome({"method.timesteps": [number(each) for each in numbers]})


def betas(value: Any, file: File) -> Outcome:
    numbers = value.split(",") if isinstance(value, str) else value
    if not isinstance(numbers, list | tuple) or len(numbers) != 2:
        raise Refused("expected two numbers")
    return Outcome({f"{FAKE_SCORE}.betas": [number(each) for each in numbers]})


def clip(value: Any, file: File) -> Outcome:
    return Outcome({f"{FAKE_SCORE}.clip_norm": number(value)})


def by_chunks(name: str, kind: Any) -> Rule:
    """Rule of a key of the rollout by chunks, which only a causal student has."""

    def rule(value: Any, file: File) -> Outcome:
        read = kind(value)
        if issubclass(METHODS[file.method], SelfForcing):
            return Outcome({f"method.{name}": read})
        return Outcome(note=WHOLE, warn=True)

    return rule


def frames_per_chunk(value: Any, file: File) -> Outcome:
    """Read the chunk's length; SimpleTuner's example contradicts itself: its 121 frames are no whole number of
    chunks."""
    chunk, causal = whole(value), issubclass(METHODS[file.method], SelfForcing)
    if chunk < 1:
        raise Refused("use 1 or more")
    latent = (file.frames - 1) // codec_of(file).stride[0] + 1 if file.frames else None
    odd = latent is not None and latent % chunk
    first_alone = file.of_method("independent_first_frame", flag, False)
    alone = first_alone and latent is not None and not (latent - 1) % chunk
    uneven = f"{file.frames} frames are {latent} latent frames, no whole number of chunks of {chunk}"
    if not causal:
        return Outcome(note=f"{WHOLE}; {uneven}, which a causal student could not take" if odd else WHOLE, warn=True)
    if odd and not alone:
        raise Refused(f"{uneven}. Change num_frames, or set independent_first_frame where 1 + a multiple fits")
    return Outcome({"method.num_frame_per_block": chunk})


DMD: Mapping[str, Key] = {
    "dmd_denoising_steps": Key(
        steps, "`method.timesteps`: rollout, validation and export share them", default="1000,757,522"
    ),
    "generator_update_interval": Key(
        to("method.student_interval", kind=whole),
        "`method.student_interval`: the student moves each N steps, the fake score at each",
        default=1,
    ),
    "real_score_guidance_scale": Key(
        to("method.teacher_guidance", "evaluate.teacher_guidance"),
        "`method.teacher_guidance`, and that of the teacher's samples in evaluations",
        default=3.0,
    ),
    "real_score_guidance_form": Key(
        form("method.teacher_guidance_form"), "`method.teacher_guidance_form`: `std` or `extra`", default="std"
    ),
    "fake_score_guidance_scale": Key(
        to("method.fake_score_guidance"), "`method.fake_score_guidance`; 0 is off", default=0.0
    ),
    "fake_score_guidance_form": Key(
        form("method.fake_score_guidance_form"), "`method.fake_score_guidance_form`: `std` or `extra`", default="std"
    ),
    "fake_score_lr": Key(to(f"{FAKE_SCORE}.learning_rate"), f"`{FAKE_SCORE}.learning_rate`", default=1e-5),
    "fake_score_weight_decay": Key(to(f"{FAKE_SCORE}.weight_decay"), f"`{FAKE_SCORE}.weight_decay`", default=0.01),
    "fake_score_betas": Key(betas, f"`{FAKE_SCORE}.betas`", default=[0.9, 0.999]),
    "fake_score_eps": Key(to(f"{FAKE_SCORE}.eps"), f"`{FAKE_SCORE}.eps`", default=1e-8),
    "fake_score_grad_clip": Key(clip, f"`{FAKE_SCORE}.clip_norm`", default=1.0),
    "min_timestep_ratio": Key(to("method.score_min"), "`method.score_min`: the clamp, after the shift", default=0.02),
    "max_timestep_ratio": Key(to("method.score_max"), "`method.score_max`", default=0.98),
    "timestep_shift": Key(to("method.score_shift"), "`method.score_shift`: the shift of the raw draw", default=1.0),
    "min_score_timestep": Key(to("method.min_score_timestep", kind=whole), "`method.min_score_timestep`", default=0),
    "ts_schedule": Key(to("method.ts_schedule", kind=flag), "`method.ts_schedule`", default=True),
    "ts_schedule_max": Key(to("method.ts_schedule_max", kind=flag), "`method.ts_schedule_max`", default=False),
    "warp_denoising_step": Key(
        to("method.warp_denoising_step", kind=flag),
        "`method.warp_denoising_step`: the steps are raw indices, warped by `flow_schedule_shift`",
        default=False,
    ),
    "num_frame_per_block": Key(
        frames_per_chunk,
        "`method.num_frame_per_block` of a causal student; else the whole clip is one chunk",
        default=3,
    ),
    "independent_first_frame": Key(
        by_chunks("independent_first_frame", flag), "`method.independent_first_frame`; causal students", default=False
    ),
    "same_step_across_blocks": Key(
        by_chunks("same_step_across_blocks", flag), "`method.same_step_across_blocks`; causal students", default=False
    ),
    "last_step_only": Key(by_chunks("last_step_only", flag), "`method.last_step_only`; causal students", default=False),
    "num_training_frames": Key(
        by_chunks("num_training_frames", whole), "`method.num_training_frames`; causal students", default=21
    ),
    "context_noise": Key(by_chunks("context_noise", number), "`method.context_noise`; causal students", default=0),
    **DMD_OF_2025,
}


def lcm_guidance(value: Any, file: File) -> Outcome:
    """Read w_min and w_max as the ends of a range."""
    ends = [file.of_method(name, number, number(value)) for name in ("w_min", "w_max")]
    return Outcome({"method.guidance": ends})


LCM: Mapping[str, Key] = {
    "euler_steps": Key(to("method.euler_steps", kind=whole), "`method.euler_steps` of the teacher's solver"),
    "guidance": Key(to("method.guidance"), "`method.guidance` of the teacher's step, u + s (c - u)"),
    "w_min": Key(lcm_guidance, "the lower end of `method.guidance`"),
    "w_max": Key(lcm_guidance, "the upper end of `method.guidance`"),
    "loss_type": Key(
        lambda value, file: Outcome({"method.loss": one_of(value, ("huber", "l2"))}), "`method.loss`: `huber` or `l2`"
    ),
    "huber_c": Key(to("method.huber_c"), "`method.huber_c`"),
}


METHOD_NAMES = ("dmd", "dcm", "lcm", "self_forcing")
"""Values of ``distillation_method``; for dcm the mode completes the name."""
TABLES: Mapping[str, Mapping[str, Key]] = {"dmd": DMD, "dcm_semantic": DCM, "lcm": LCM}
ALIASES: Mapping[str, Mapping[str, str]] = {
    "dmd": {"shift": "timestep_shift"},
    "self_forcing": {"shift": "timestep_shift"},
    "dcm": {"euler_timesteps": "euler_steps"},
    "lcm": {"euler_timesteps": "euler_steps"},
}
"""By ``distillation_method``: alias of a key -> its name in the table."""


def by_its_name(section: Mapping[str, Any], method: str) -> dict[str, Any]:
    """The section with aliases replaced by the table's names; Refused where two names of a key have different
    values."""
    aliases = ALIASES.get(method, {})
    renamed: dict[str, Any] = {}
    for key, value in section.items():
        name = aliases.get(key, key)
        if name in section and name != key and section[name] != value:
            raise Refused(
                f"{key} = {value!r} is another name of {name}, which is {section[name]!r}; remove one of them"
            )
        renamed[name] = value
    return renamed


def table_of(method: str) -> Mapping[str, Key]:
    """The table of keys for one of our methods or its variants."""
    tables = [table for name, table in TABLES.items() if METHODS[name] in METHODS[method].__mro__]
    if not tables:
        raise ConfigError(f"method.name = {method!r}: SimpleTuner's files serve {', '.join(METHOD_NAMES)}")
    return tables[0]
