"""Measure the bytes of each rank for each role of DMD, in every mode, beside those of `ray-distill plan`.

    python benchmarks/memory.py [--worlds 2,4] [--modes NAME,...] [--layers 4]

It runs a small Wan with random weights on gloo processes, without GPU and Ray. After an update of each role it counts
the storages of its weights, fp32 masters, moments and average, each once. Bytes grow with the number of elements; the
shares of ranks do not depend on it. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

LORA = {"rank": 8}
MODES: dict[str, dict[str, Any]] = {
    "full ZeRO-0, fp32": {"zero": 0, "dtype": "float32"},
    "full ZeRO-1": {"zero": 1},
    "full ZeRO-2": {"zero": 2},
    "full ZeRO-3": {"zero": 3},
    "full ZeRO-3, no EMA": {"zero": 3, "ema": None},
    "LoRA ZeRO-3": {"zero": 3, "lora": LORA},
    "shared base whole": {"zero": 2, "lora": LORA, "shared": True, "teacher": 0},
    "shared base ZeRO-3": {"zero": 2, "lora": LORA, "shared": True},
}


def configure(folder: Path, world: int, mode: dict[str, Any]) -> Any:
    from ray_distill.config import RunConfig

    dtype = mode.get("dtype", "bfloat16")
    held = {"zero": mode["zero"], "dtype": dtype, "optimizer": {"learning_rate": 1e-4}, "lora": mode.get("lora")}
    return RunConfig.model_validate(
        {
            "name": "memory",
            "model": {"path": folder, "shared_base": mode.get("shared", False)},
            "method": {"name": "dmd", "student_interval": 1},
            "roles": {
                "student": held | {"ema_decay": mode.get("ema", 0.99)},
                "fake_score": held,
                "teacher": {"zero": mode.get("teacher", 3), "dtype": "bfloat16"},
            },
            "data": {"manifest": folder / "manifest.jsonl", "frames": 9, "height": 32, "width": 32},
            "train": {"steps": 10, "workers": world, "global_batch": world, "micro_batch": 1},
            "evaluate": {"enabled": False},
        }
    )


def size(tensors: Iterable[Tensor | None]) -> int:
    """Bytes of the distinct storages of tensors."""
    return sum(
        {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if t is not None}.values()
    )


def held_bytes(engines: Any) -> dict[str, dict[str, int]]:
    """Bytes of this rank by role and term."""
    from ray_distill.train.worker.role import EMA
    from ray_distill.train.worker.shards import MOMENTS

    found: dict[str, dict[str, int]] = {}
    for role, held in engines._roles.items():
        weights = [getattr(p, "ds_tensor", p) for n, p in held.module.named_parameters() if not _another(role, n)]
        terms = {"weights": size(weights)}
        if held.trainable:
            sharded = held.zero_optimizer
            names = ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition")
            terms["masters"] = size(m for name in names for m in getattr(sharded, name, []))  # none at stage 0
            states = held.optimizer.state.values()
            terms["moments"] = size(state[moment] for state in states for moment in MOMENTS)
            terms["ema"] = size(state[EMA] for state in states if EMA in state)
        found[role] = terms
    return found


def _another(role: str, name: str) -> bool:
    """Whether a parameter of the shared base is another role's adapter."""
    return role == "teacher" and ".lora_" in name


def measure(rank: int, world: int, folder: str, modes: list[str]) -> None:
    """Write ``<rank>.json`` into ``folder``: mode -> role -> term -> bytes."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank), DS_ACCELERATOR="cpu")
    torch.set_num_threads(1)
    import torch.distributed as dist

    from ray_distill.rng import StatelessRng
    from ray_distill.train.worker.build import build_engines
    from ray_distill.train.worker.step import train_step
    from ray_distill.types import Batch

    dist.init_process_group("gloo", init_method=f"file://{folder}/store-{world}", rank=rank, world_size=world)
    found = {}
    for name in modes:
        config = configure(Path(folder), world, MODES[name])
        engines = build_engines(config)
        text = {"text": torch.zeros(1, 5, 8)}
        train_step(config.method, engines, [Batch(torch.tensor([rank]), (4, 3, 4, 4), text, text)], 0, StatelessRng(0))
        found[name] = held_bytes(engines)
        del engines
    Path(folder, f"{world}-{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def planned(folder: Path, world: int, mode: dict[str, Any]) -> dict[str, dict[str, int]]:
    from ray_distill.plan.memory import state
    from ray_distill.plan.network import parameters

    config = configure(folder, world, mode)
    states = {role: state(config.role(role), parameters(config, role), world) for role in config.held_roles}
    terms = ("weights", "masters", "moments", "ema")
    return {role: {term: getattr(held, term) for term in terms} for role, held in states.items()}


def model(folder: Path, layers: int) -> int:
    """Write a small Wan to ``folder``; returns the elements of its parameters."""
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    heads = {"num_attention_heads": 4, "attention_head_dim": 32, "ffn_dim": 512, "num_layers": layers}
    made = WanTransformer3DModel(in_channels=4, out_channels=4, text_dim=8, freq_dim=16, rope_max_seq_len=32, **heads)
    made.save_pretrained(folder / "transformer")
    return sum(p.numel() for p in made.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", default="2,4")
    parser.add_argument("--modes", default=",".join(m.replace(",", ";") for m in MODES))
    parser.add_argument("--layers", type=int, default=4)
    args = parser.parse_args()
    modes = [name.replace(";", ",") for name in args.modes.split(",")]
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        elements = model(folder, args.layers)
        print(f"{elements:,} parameters, in bf16 but where said; KiB a rank, and bytes a parameter of one network\n")
        print(f"{'mode':<22} {'ranks':>5} {'student':>9} {'fake':>9} {'teacher':>9} {'sum':>9} {'bytes':>6}   plan")
        for world in map(int, args.worlds.split(",")):
            torch.multiprocessing.spawn(measure, (world, scratch, modes), nprocs=world)
            ranks = [json.loads((folder / f"{world}-{rank}.json").read_text()) for rank in range(world)]
            for name in modes:
                most = {role: max(sum(rank[name][role].values()) for rank in ranks) for role in ranks[0][name]}
                said = {role: sum(terms.values()) for role, terms in planned(folder, world, MODES[name]).items()}
                off = max(abs(said[role] / most[role] - 1) for role in most)
                total = sum(most.values())
                cells = (f"{most[r] / 1024:9.1f}" for r in ("student", "fake_score", "teacher"))
                print(
                    f"{name:<22} {world:5d} {' '.join(cells)} {total / 1024:9.1f} {total / elements:6.2f}   "
                    f"{off:.1%} off at most"
                )
                rows.append({"mode": name, "ranks": world, "bytes": most, "planned": said, "elements": elements})
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
