"""A folder of Wan 2.2's two experts at a size that a CPU runs in milliseconds, and a configuration of them."""

from pathlib import Path
from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline

from ray_distill.config import RunConfig
from tests.tiny_wan import tiny_wan
from tests.unit.toys import run_config

PARTS = dict.fromkeys(("tokenizer", "text_encoder", "vae"))
RATE = 1e-3
TRAINED = ("student", "fake_score", "student_low", "fake_score_low")


def write_experts(folder: Path, boundary: float | None = 0.875) -> None:
    """Write two experts with weights of seed 1 (high) and seed 2 (low)."""
    scheduler, experts = FlowMatchEulerDiscreteScheduler(), {"transformer": tiny_wan(1), "transformer_2": tiny_wan(2)}
    WanPipeline(**PARTS, scheduler=scheduler, boundary_ratio=boundary, **experts).save_pretrained(folder)


def phased_config(folder: Path, method: dict[str, Any] | None = None, zero: int = 2, **changes: Any) -> RunConfig:
    """Phased DMD of folder/model; ``lora`` in ``changes`` makes all trained roles adapters."""
    held: dict[str, Any] = {"zero": zero, "optimizer": {"learning_rate": RATE}}
    if lora := changes.pop("lora", None):
        held["lora"] = lora
    roles = {role: held | ({"ema_decay": 0.5} if role.startswith("student") else {}) for role in TRAINED}
    given = {"name": "dmd_phased", "high_steps": 4, "student_interval": 2} | (method or {})
    return run_config(folder, method=given, roles=roles, **{"train__steps": 8, "train__micro_batch": 4} | changes)
