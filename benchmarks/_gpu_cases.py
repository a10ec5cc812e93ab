"""Cases of the GPU benchmark: networks, a run's configuration, engines and batch on random weights."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, patch

import torch


class Absent(types.ModuleType):
    """Stand-in for pyarrow and PyAV, which are larger than all else together; the kit reads no data, so no code calls
    them."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return MagicMock()


for package, parts in {"pyarrow": ("compute", "parquet"), "av": ("container",)}.items():
    if importlib.util.find_spec(package) is None:
        sys.modules |= {name: Absent(name) for name in (package, *(f"{package}.{part}" for part in parts))}

INTERVAL = 5
WAN = {"_class_name": "WanTransformer3DModel", "patch_size": [1, 2, 2], "attention_head_dim": 128, "freq_dim": 256}
WAN |= {"cross_attn_norm": True, "qk_norm": "rms_norm_across_heads", "text_dim": 4096, "eps": 1e-6}
NETWORKS: dict[str, dict[str, Any]] = {
    "1.3B": WAN | {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30, "in_channels": 16, "out_channels": 16},
    "5B": WAN | {"num_attention_heads": 24, "ffn_dim": 14336, "num_layers": 30, "in_channels": 48, "out_channels": 48},
    "14B": WAN | {"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40, "in_channels": 16, "out_channels": 16},
    "tiny": WAN
    | {"num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 32, "num_layers": 2, "freq_dim": 16}
    | {"in_channels": 4, "out_channels": 4, "text_dim": 8, "rope_max_seq_len": 32},
}
"""Wan 2.1 T2V 1.3B and 14B and Wan 2.2 TI2V 5B as their repositories describe them."""
LATENTS = {"1.3B": (16, 21, 60, 104), "5B": (48, 31, 44, 80), "14B": (16, 21, 60, 104), "tiny": (4, 3, 4, 4)}
"""81 x 480 x 832 pixels, for 5B 121 x 704 x 1280 through its own VAE."""
BASE = {"dtype": "bfloat16", "checkpointing": True, "rows": 1, "steps": 3}
LORA = {"lora": {"rank": 64}, "shared": True}


def cases(tiny: bool) -> Iterator[dict[str, Any]]:
    """Cases: for 1.3B one change at a time from ``BASE``; larger networks if they fit."""
    first = "tiny" if tiny else "1.3B"
    changes: list[dict[str, Any]] = [
        {"copies": True},
        {"checkpointing": False},
        {"rows": 2},
        {"fused": False},
        {"dtype": "float32"},
    ]
    changes += [LORA, LORA | {"int8": True}]
    if not tiny:
        changes += [{"compile": True}, *({"attention": name} for name in ("_native_cudnn", "_native_flash", "flash"))]
    yield from (BASE | {"network": first} | change for change in changes)
    if not tiny:
        yield BASE | {"network": "5B"} | LORA
        yield from (BASE | {"network": "14B", "layers": layers} | LORA for layers in (2, 4))
    yield {"drift": 50, "network": first, "layers": 2, "steps": 3}
    yield from ({"part": part, "tiny": tiny} for part in ("vae", "text"))


def configure(folder: Path, case: dict[str, Any]) -> Any:
    from ray_distill.config import RunConfig

    described = NETWORKS[case["network"]] | ({"num_layers": case["layers"]} if "layers" in case else {})
    (folder / "transformer").mkdir(exist_ok=True)
    (folder / "transformer/config.json").write_text(json.dumps(described))
    held = {"zero": 1, "dtype": case["dtype"], "gradient_checkpointing": case.get("checkpointing", False)}
    held |= {"compile": case.get("compile", False), "lora": case.get("lora")}
    frozen = {"zero": 0, "dtype": case["dtype"], "base_precision": "int8" if case.get("int8") else "dtype"}
    trained = held | {"optimizer": {"learning_rate": 1e-5, "clip_norm": 10.0}}
    model = {"path": folder, "shared_base": case.get("shared", False), "max_sequence_length": 512}
    if case["network"] == "tiny":
        model["max_sequence_length"] = 5
    rows = case.get("rows", 1)
    return RunConfig.model_validate(
        {
            "name": "gpu",
            "model": model | {"attention": case.get("attention", "native")},
            "method": {"name": "dmd", "student_interval": INTERVAL, "timesteps": "1000,757,522"},
            "roles": {"student": trained, "fake_score": trained, "teacher": frozen},
            "data": {"manifest": folder / "none.jsonl", "frames": 81, "height": 480, "width": 832},
            "train": {"steps": 1000, "workers": 1, "global_batch": rows, "micro_batch": rows},
            "evaluate": {"enabled": False},
        }
    )


def engines_of(config: Any, case: dict[str, Any], device: torch.device) -> Any:
    """The run's own engines, with weights drawn on the device in place of files."""
    from ray_distill.models import family
    from ray_distill.train.worker import build, zero
    from ray_distill.train.worker.adamw import adamw

    fused = case.get("fused", True)
    described = json.loads((config.model.path / "transformer/config.json").read_text())

    def drawn(config: Any, held: Any, role: str) -> torch.nn.Module:
        torch.manual_seed(0)
        with device:
            return family("wan").transformer.from_config(described).to(zero.DTYPES[held.dtype])

    def foreach(module: torch.nn.Module, held: Any) -> torch.optim.AdamW:
        optimizer = adamw(module, held)
        for group in optimizer.param_groups:
            group |= {"fused": False, "foreach": True}
        return optimizer

    with patch.object(build, "load_network", drawn), patch.object(zero, "adamw", adamw if fused else foreach):
        return build.build_engines(config)


def batch_of(config: Any, case: dict[str, Any], device: torch.device) -> Any:
    from ray_distill.types import Batch

    rows, latent = config.train.micro_batch, LATENTS[case["network"]]
    text = torch.randn(rows, config.model.max_sequence_length, NETWORKS[case["network"]]["text_dim"], device=device)
    return Batch(torch.arange(rows, device=device), latent, {"text": text}, {"text": torch.zeros_like(text)})
