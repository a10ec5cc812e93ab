"""Read SimpleTuner's JSON files as mappings, in every spelling that its web form and its users write."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ray_distill.config.keys import nearest
from ray_distill.plaintext import NotText, read_text
from ray_distill.simpletuner.values import Refused, blank

FORM = "config"
"""The key of the configuration in a file of the web form: {"_metadata": ..., "config": ...}."""
RENAMED = {
    "steps": "max_train_steps",
    "max_steps": "max_train_steps",
    "epochs": "num_train_epochs",
    "batch_size": "train_batch_size",
    "grad_accum": "gradient_accumulation_steps",
    "lr": "learning_rate",
    "rank": "lora_rank",
    "alpha": "lora_alpha",
    "network_dim": "lora_rank",
    "network_alpha": "lora_alpha",
    "gradient_clip": "max_grad_norm",
    "clip_grad_norm": "max_grad_norm",
    "shift": "flow_schedule_shift",
    "save_steps": "checkpoint_step_interval",
    "save_every": "checkpoint_step_interval",
    "checkpointing_step_interval": "checkpoint_step_interval",
    "validation_interval": "validation_step_interval",
    "validation_every": "validation_step_interval",
    "negative_prompt": "validation_negative_prompt",
    "dataset_config": "data_backend_config",
    "dataloader_config": "data_backend_config",
    "wandb_project": "tracker_project_name",
    "run_name": "tracker_run_name",
    "lora_initialisation_style": "lora_init_type",
    "fused_qkv_projections": "fuse_qkv_projections",
    "denoising_steps": "dmd_denoising_steps",
    "denoising_step_list": "dmd_denoising_steps",
    "dfake_gen_update_ratio": "generator_update_interval",
    "real_guidance_scale": "real_score_guidance_scale",
    "guidance_scale": "real_score_guidance_scale",
    "fake_guidance_scale": "fake_score_guidance_scale",
    "fake_score_learning_rate": "fake_score_lr",
    "adversarial_weight": "adv_weight",
    "cfg": "distill_cfg",
    "disable_vae_cache": "vae_cache_disable",
    "instance_data_root": "instance_data_dir",
    "path": "instance_data_dir",
    "folder": "instance_data_dir",
    "frames": "num_frames",
    "maximum_target_size": "maximum_image_size",
    "caption_type": "caption_strategy",
    "num_repeats": "repeats",
    "crop_mode": "crop_style",
}
"""Names of keys in older versions and other tools -> names today; used only for hints."""


def is_comment(key: str) -> bool:
    return key.startswith(("_", "#", "//"))


def set_keys(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that are set, without comments and null values."""
    return {key: value for key, value in settings.items() if not is_comment(key) and not blank(value)}


def hint(key: str, names: Iterable[str]) -> str:
    """A hint for an unknown key: its name today, the nearest known key, or the document that lists all keys."""
    current = [name for name in names if not name.endswith("*")]
    if RENAMED.get(key) in current:
        return f"did you mean {RENAMED[key]!r}?"
    near = nearest(key, current)
    return "docs/simpletuner.md lists the known keys" if near.startswith("known:") and len(current) > 20 else near


def read_json(path: Path) -> Any:
    """The content of a JSON file; Refused, with file, place and remedy, where it cannot be read."""
    try:
        return json.loads(read_text(path), object_pairs_hook=_once)
    except NotText as error:
        raise Refused(str(error)) from None
    except OSError as error:
        raise Refused(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else error
        raise Refused(f"{path}: not valid JSON: {reason}") from None


def configuration(path: Path) -> dict[str, Any]:
    """All keys of a configuration, without the leading dashes of command line options."""
    content = read_json(path)
    if isinstance(content, dict) and isinstance(content.get(FORM), dict) and len(set_keys(content)) == 1:
        content = content[FORM]
    if not isinstance(content, dict):
        raise Refused(f"expected a mapping of keys, found a {type(content).__name__}")
    settings: dict[str, Any] = {}
    for key, value in content.items():
        name = key.removeprefix("--")
        if name in settings:
            raise Refused(f"{name} is there twice, with and without --")
        settings[name] = value
    return settings


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping of ``pairs``. ValueError for a repeated key, of which json would silently take the last; comments may
    repeat."""
    mapping: dict[str, Any] = {}
    for key, value in pairs:
        if key in mapping and not is_comment(key):
            raise ValueError(f"{key!r} is there twice; remove one of them")
        mapping[key] = value
    return mapping
