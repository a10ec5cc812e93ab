"""Rules for DCM's keys of `distillation_config`, and for the start of its detail expert."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray_distill.simpletuner.outcome import File, Key, Outcome, Rule
from ray_distill.simpletuner.rules import form, no_effect, to
from ray_distill.simpletuner.values import Refused, number, whole

FINE, SEMANTIC = "dcm_fine", "dcm_semantic"
BEFORE = "-semantic"
"""Suffix of a semantic run's name, after the name of the run that follows it."""
COMES_FIRST = "there is no semantic run yet: one comes first"
WHOLE = ["condition_embedder", "scale_shift_table", "proj_out"]
"""The embedder and the head; the detail expert trains its own."""


def mode(value: Any, file: File) -> Outcome:
    return Outcome({"method.name": file.method})


def phases(value: Any, file: File) -> Outcome:
    """Read a number of phases, or the phases' edges as a list or as text."""
    if isinstance(value, str) and "," in value:
        value = value.split(",")
    if isinstance(value, list):
        return Outcome({"method.multiphase": [number(each) for each in value]})
    return Outcome({"method.multiphase": whole(value)})


def own_shift(value: Any, file: File) -> Outcome:
    one = file.settings.get("flow_schedule_shift")
    if one is None:
        return Outcome({"method.shift": number(value)})
    if number(one) != number(value):
        raise Refused(f"flow_schedule_shift = {one} already is the shift of solver and samples; remove one of the two")
    return Outcome(note="as flow_schedule_shift")


def of_fine(key: str, read: Any) -> Rule:
    def rule(value: Any, file: File) -> Outcome:
        read(value)
        if file.method != FINE:
            return Outcome(note="no effect: it belongs to mode=fine", warn=True)
        return Outcome({key: read(value)} if key else {})

    return rule


def semantic_checkpoint(value: Any, file: File) -> Outcome:
    """Start from the checkpoint that the file names, else from the latest semantic run under output_dir, else from one
    that comes first."""
    if file.method != FINE:
        return Outcome(note="no effect: it belongs to mode=fine" if value else "", warn=bool(value))
    whole_parts = {} if file.settings.get("model_type") == "full" else {"roles.student.lora.whole": WHOLE}
    if file.overrides("roles.student.path"):
        return Outcome(whole_parts, "roles.student.path is set elsewhere")
    if value:
        folder = file.locate(value)
        folder = folder / "export" if (folder / "export").is_dir() else folder
        if not (folder / "transformer").is_dir():
            raise Refused("it has no transformer/; name a semantic run's folder, or its export")
        return Outcome(whole_parts | {"roles.student.path": str(folder)}, "the semantic expert")
    run_dir, note = latest(file.output_dir), "the latest semantic run under output_dir"
    if run_dir is None:
        run_dir, note = file.output_dir / f"{file.name}{BEFORE}", COMES_FIRST
    return Outcome(whole_parts | {"roles.student.path": str((run_dir / "export").absolute())}, note, warn=True)


def latest(output_dir: Path) -> Path | None:
    """The folder of the semantic run under ``output_dir`` with the newest export; None without one."""
    runs = sorted(output_dir.glob("*/export/recipe.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    return next((recipe.parents[1] for recipe in runs if _method(recipe.parents[1]) == SEMANTIC), None)


def _method(run_dir: Path) -> str | None:
    """The method in a run's newest checkpoint; None without a checkpoint."""
    states = sorted(run_dir.glob("step_*/state.json"))
    return json.loads(states[-1].read_text())["config"]["method"]["name"] if states else None


DCM: Mapping[str, Key] = {
    "mode": Key(mode, "`method.name`: `dcm_semantic` or `dcm_fine`", default="semantic"),
    "semantic_checkpoint": Key(
        semantic_checkpoint,
        "`roles.student.path` with mode=fine: a semantic run or its export; absent: the latest under output_dir, else "
        "a semantic run comes first",
        default=None,
    ),
    "semantic_steps": Key(
        of_fine("", whole), "`train.steps` of a semantic run that comes first; absent: as many as the run itself"
    ),
    "euler_steps": Key(
        to("method.euler_steps", kind=whole), "`method.euler_steps` of the teacher's solver; divides 1000", default=50
    ),
    "multiphase": Key(phases, "`method.multiphase`: a count, or the levels at which phases end", default=4),
    "dcm_shift": Key(own_shift, "`method.shift`; must agree with flow_schedule_shift"),
    "distill_cfg": Key(to("method.distill_cfg"), "`method.distill_cfg` of the teacher's step", default=5.0),
    "distill_cfg_form": Key(
        form("method.distill_cfg_form"), "`method.distill_cfg_form`: `extra`, c + w (c - u), or `std`", default="extra"
    ),
    "adv_weight": Key(
        of_fine("method.adversarial_weight", number), "`method.adversarial_weight`; mode=fine", default=0.1
    ),
    "discriminator_head_stride": Key(
        of_fine("method.discriminator_stride", whole), "`method.discriminator_stride`; mode=fine", default=2
    ),
    "discriminator_total_layers": Key(
        no_effect("no effect: the discriminator takes its size from the model"),
        "no effect: the discriminator takes its size from the model",
    ),
    "model_family": Key(no_effect("no effect: model_family beside it says so"), "no effect: it stands beside it, too"),
}
