"""Rules for the run: its batch, clips, optimizers, average, checkpoints and validations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray_distill.fastvideo.file import File
from ray_distill.fastvideo.rules import FAKE, STUDENT
from ray_distill.simpletuner.outcome import Outcome, as_name
from ray_distill.simpletuner.outputs import KEEP_ALL
from ray_distill.simpletuner.values import Refused, number, one_or_more, text, whole


def workers(key: str, value: Any, file: File) -> Outcome:
    return Outcome({"train.workers": whole(value)})


def batch(key: str, value: Any, file: File) -> Outcome:
    """The global batch: that of a GPU, times the groups of GPUs that share a clip, times accumulation."""
    sharing = file.read("training.distributed.sp_size", whole, 1)
    rounds = file.read("training.loop.gradient_accumulation_steps", one_or_more, 1)
    groups = max(1, file.workers // max(1, sharing))
    return Outcome({"train.micro_batch": whole(value), "train.global_batch": whole(value) * groups * rounds})


def latents(key: str, value: Any, file: File) -> Outcome:
    """Frames of a clip, by the latents to which FastVideo cuts it, also where num_frames says something else."""
    count = 4 * (whole(value) - 1) + 1
    if (other := file.read("training.data.num_frames", whole, count)) == count:
        return Outcome({"data.frames": count})
    note = f"{whole(value)} latent frames are {count} frames, and num_frames is {other}: latents count"
    return Outcome({"data.frames": count}, note, warn=True)


def frames(key: str, value: Any, file: File) -> Outcome:
    if file.read("training.data.num_latent_t", whole, 0):
        return Outcome(note="see num_latent_t")
    return Outcome({"data.frames": whole(value)})


def clip(key: str, value: Any, file: File) -> Outcome:
    return Outcome(dict.fromkeys((f"{STUDENT}.clip_norm", f"{FAKE}.clip_norm"), number(value)))


def ema(key: str, value: Any, file: File) -> Outcome:
    """The average's decay d^k: FastVideo moves it at each of the k steps between updates of the student."""
    decay = number(value) ** file.interval
    note = (
        f"FastVideo moves it at each step; {number(value):g}^{file.interval} at each update of the student is the same"
    )
    return Outcome({"roles.student.ema_decay": decay}, note if file.interval > 1 else "")


def warmup(key: str, value: Any, file: File) -> Outcome:
    """Warm-up of the schedules that have one in FastVideo: all but constant, by diffusers' names."""
    named = {STUDENT: "training.optimizer.lr_scheduler", FAKE: "method.fake_score_lr_scheduler"}
    roles = [role for role, own in named.items() if file.settings.get(own, "constant") != "constant"]
    if whole(value) and len(roles) < len(named):
        note = "a schedule constant has no warm-up in FastVideo; constant_with_warmup has"
        return Outcome({f"{role}.warmup_updates": whole(value) for role in roles}, note, warn=True)
    return Outcome({f"{role}.warmup_updates": whole(value) for role in roles}, "" if roles else "no warm-up")


def polynomial(key: str, value: Any, file: File) -> Outcome:
    if file.settings.get("training.optimizer.lr_scheduler") != "polynomial" or not number(value):
        return Outcome(note="no effect: it belongs to lr_scheduler: polynomial")
    return Outcome({f"{STUDENT}.power": number(value)})


def least_rate(key: str, value: Any, file: File) -> Outcome:
    named = {STUDENT: "training.optimizer.lr_scheduler", FAKE: "method.fake_score_lr_scheduler"}
    roles = [role for role, own in named.items() if file.settings.get(own) == "cosine_with_min_lr"]
    if not roles:
        return Outcome(note="no effect: it belongs to lr_scheduler: cosine_with_min_lr")
    return Outcome({f"{role}.min_lr_ratio": number(value) for role in roles})


def output(key: str, value: Any, file: File) -> Outcome:
    folder = Path(text(value))
    name = as_name(str(file.settings.get("training.tracker.run_name") or folder.name))
    return Outcome({"output_dir": str(folder.parent), "name": name})


def run_name(key: str, value: Any, file: File) -> Outcome:
    return Outcome({"name": as_name(text(value))} if str(value).strip() else {})


def callback(key: str, value: Any, file: File) -> Outcome:
    name = key.split(".")[1]
    if not str(value).startswith(f"fastvideo.train.callbacks.{name}."):
        raise Refused(f"another class than FastVideo's own {name}; remove it")
    return Outcome(note="its own class")


def resume(key: str, value: Any, file: File) -> Outcome:
    if str(value).strip():
        raise Refused(
            "FastVideo's checkpoints are not read; export the student, and give its folder as roles.student.path"
        )
    return Outcome({"train.resume_from": "latest"})


def every(key: str, value: Any, file: File) -> Outcome:
    if not whole(value):
        steps = file.read("training.loop.max_train_steps", whole, 1)
        return Outcome({"train.checkpoint_every": max(1, steps)}, "0: only the last state is saved")
    return Outcome({"train.checkpoint_every": whole(value)})


def keep(key: str, value: Any, file: File) -> Outcome:
    return Outcome({"train.checkpoints_keep": whole(value) or KEEP_ALL}, "" if whole(value) else "0 keeps them all")


def sampled(key: str, value: Any, file: File) -> Outcome:
    """Note whether validations ask for the student's own steps, which are sampled in any case."""
    own = file.settings.get("method.dmd_denoising_steps")
    same = value == own or (isinstance(own, list) and value == [len(own)])
    return Outcome(
        note="the student's own steps, by its own sampler"
        if same
        else "no effect: the student is sampled with its own steps",
        warn=not same,
    )
