"""Rules for SimpleTuner's keys on tracking, publishing and validation."""

from __future__ import annotations

from typing import Any

from ray_distill.simpletuner.outcome import File, Outcome, as_name
from ray_distill.simpletuner.rules import is_hub_name
from ray_distill.simpletuner.values import Refused, blank, flag, off, text, whole
from ray_distill.simpletuner.weights import model_name


def run_name(value: Any, file: File) -> Outcome:
    name = as_name(text(value))
    return Outcome({"name": name}, "" if name == value else "a name has letters, digits, '_', '.' and '-'")


def report_to(value: Any, file: File) -> Outcome:
    if blank(value) or _is_none(value):
        return Outcome({"track.uri": ""})
    return Outcome(note="" if value == "mlflow" else "MLflow takes its place, at track.uri")


def _is_none(value: Any) -> bool:
    return str(value).strip().lower() in ("none", "false", "no", "off")


def resume(value: Any, file: File) -> Outcome:
    if value == "latest":
        return Outcome({"train.resume_from": "latest"})
    if blank(value) or _is_none(value):
        return Outcome({"train.resume_from": "none"})
    try:
        return Outcome({"train.resume_from": str(file.locate(value))})
    except Refused as error:
        own = "; this tool's checkpoints are called step_00000100, and latest goes on from the newest"
        raise Refused(f"{error}{own if str(value).startswith('checkpoint-') else ''}") from None


KEEP_ALL = 1_000_000


def keep(value: Any, file: File) -> Outcome:
    count = whole(value)
    return Outcome({"train.checkpoints_keep": count or KEEP_ALL}, "" if count else "0 keeps them all")


def publishes(file: File) -> bool:
    return file.flag("push_to_hub") and file.overridden.get("publish", True) is not None


NAMELESS = "hub_model_id names the repository, and is not set; set it, or use --no-push"
NO_PUSH = "nothing is published: push_to_hub is false, or --no-push is given"


def push(value: Any, file: File) -> Outcome:
    if not flag(value):
        return Outcome(note="nothing is published")
    if not file.settings.get("hub_model_id") and not file.overrides("publish"):
        raise Refused(NAMELESS)
    return Outcome(note="see hub_model_id" if publishes(file) else NO_PUSH)


def push_checkpoints(value: Any, file: File) -> Outcome:
    if not publishes(file):
        return Outcome(note=NO_PUSH if flag(value) else "")
    return Outcome({"publish.per_checkpoint": flag(value)})


def hub_model_id(value: Any, file: File) -> Outcome:
    if not publishes(file):
        return Outcome(note=NO_PUSH)
    if not value:
        raise Refused(NAMELESS)
    base = model_name(file)
    note = "" if is_hub_name(base) else "its base is a local folder, which others do not have: set publish.base_model"
    return Outcome({"publish.hub_model_id": text(value), "publish.base_model": base}, note, warn=bool(note))


def private(value: Any, file: File) -> Outcome:
    if not publishes(file):
        return Outcome(note=NO_PUSH)
    return Outcome({"publish.private": flag(value)})


def webhook(value: Any, file: File) -> Outcome:
    if file.overrides("track.webhook"):
        return Outcome(note="track.webhook is set elsewhere, or --no-push is given")
    if off(value):
        return Outcome(note="no web hook")
    if not isinstance(value, str) or "://" in value:
        raise Refused("the address is a secret: write it into a file, and name the file")
    return Outcome({"track.webhook": str(file.locate(value))})
