"""Compare DMD in bf16 and fp32 under each ZeRO stage: drift of parameters, cosine of gradients.

    python benchmarks/precision.py [--steps 50] [--workers 2]

The digits teacher is student, fake score and teacher, on its own prompts and gloo processes, without GPU and Ray. AdamW
has beta_1 = 0, so that its first moment is the gradient, and there is no clip. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
TEACHER = ROOT / "examples/digits_teacher"
SHAPE, BATCH = (16, 3, 6, 6), 16
MODES = {f"{name}, ZeRO-{zero}": (dtype, zero) for name, dtype, zero in (
    ("fp32", "float32", 2), ("fp32", "float32", 0), ("fp32", "float32", 3),
    ("bf16", "bfloat16", 1), ("bf16", "bfloat16", 2), ("bf16", "bfloat16", 3),
)}  # fmt: skip
REFERENCE, ROLES = next(iter(MODES)), ("student", "fake_score")


def configure(folder: Path, world: int, steps: int, dtype: str, zero: int) -> Any:
    from ray_distill.config import RunConfig

    adamw = {"learning_rate": 1e-5, "betas": [0.0, 0.999], "clip_norm": 0.0}
    held = {"zero": zero, "dtype": dtype, "optimizer": adamw}
    return RunConfig.model_validate(
        {
            "name": "precision",
            "model": {"path": TEACHER},
            "method": {"name": "dmd", "teacher_guidance": 1.5},
            "roles": {"student": held, "fake_score": held, "teacher": {"zero": zero, "dtype": dtype}},
            "data": {"manifest": folder / "manifest.jsonl", "frames": 9, "height": 24, "width": 24},
            "train": {"steps": steps, "workers": world, "global_batch": BATCH, "micro_batch": BATCH // world // 2},
            "evaluate": {"enabled": False},
        }
    )


def texts(folder: Path) -> None:
    """Write ``texts.pt``: BATCH captions and the empty prompt, encoded."""
    sys.path.insert(0, str(ROOT))
    from examples.moving_digits import DIGITS, DIRECTIONS, caption_of
    from ray_distill.models import family
    from ray_distill.models.conditions import collate
    from ray_distill.models.pipeline import Pipeline

    captions = [caption_of(DIGITS[i % 10], DIRECTIONS[i % 4]) for i in range(BATCH)]
    rows = family("wan").text(TEACHER, 8, "float32").encode([*captions, ""])
    torch.save(collate(rows, Pipeline("wan", TEACHER).fields(8))["text"], folder / "texts.pt")


def train(rank: int, world: int, folder: str, steps: int) -> None:
    """Write ``<mode>.pt``: role -> all weights at the start and at the end, and the gradients of two steps."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank), DS_ACCELERATOR="cpu")
    torch.set_num_threads(1)
    import torch.distributed as dist

    from ray_distill.rng import StatelessRng
    from ray_distill.train.worker.build import build_engines
    from ray_distill.train.worker.step import train_step
    from ray_distill.types import Batch

    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    text = torch.load(f"{folder}/texts.pt")
    for name, (dtype, zero) in MODES.items():
        config = configure(Path(folder), world, steps, dtype, zero)
        engines = build_engines(config)
        found = {f"start/{key}": t for key, t in flat(engines, "weights").items()}
        for step in range(steps):
            batches = []
            for rows in torch.arange(BATCH).chunk(world)[rank].split(config.train.micro_batch):
                uncond = {"text": text[-1:].expand(len(rows), -1, -1)}
                batches.append(Batch(step * BATCH + rows, SHAPE, {"text": text[rows]}, uncond))
            train_step(config.method, engines, batches, step, StatelessRng(0))
            if step + 1 in (config.method.student_interval, steps):
                found |= {f"gradient {step + 1}/{key}": t for key, t in flat(engines, "exp_avg").items()}
        found |= {f"end/{key}": t for key, t in flat(engines, "weights").items()}
        if rank == 0:
            torch.save(found, f"{folder}/{name}.pt")
        del engines
    dist.barrier()
    dist.destroy_process_group()


def flat(engines: Any, kind: str) -> dict[str, Tensor]:
    """All tensors of a ``kind`` in one, by role (a collective)."""
    parts: dict[str, list[Tensor]] = {role: [] for role in ROLES}
    for role, name, tensor in engines.tensors():
        if name.startswith(f"{kind}/"):
            parts[role].append(tensor.detach().flatten().clone())
    return {role: torch.cat(tensors) for role, tensors in parts.items()}


def compare(found: dict[str, Tensor], reference: dict[str, Tensor], second: dict[str, Tensor]) -> dict[str, float]:
    """Comparison of a mode: drift from ``reference`` and from ``second``, the same dtype under ZeRO-2, over the
    distance that the reference moved; cosines of the gradients with the reference's."""
    row = {}
    for role in ROLES:
        way = (reference[f"end/{role}"] - reference[f"start/{role}"]).norm()
        row[f"{role} drift"] = ((found[f"end/{role}"] - reference[f"end/{role}"]).norm() / way).item()
        row[f"{role} from ZeRO-2"] = ((found[f"end/{role}"] - second[f"end/{role}"]).norm() / way).item()
        for key in sorted(key for key in found if key.startswith("gradient") and key.endswith(f"/{role}")):
            step = key.split("/")[0].removeprefix("gradient ")
            row[f"{role} cosine {step}"] = torch.cosine_similarity(found[key], reference[key], dim=0).item()
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        texts(Path(scratch))
        torch.multiprocessing.spawn(train, (args.workers, scratch, args.steps), nprocs=args.workers)
        found = {name: torch.load(f"{scratch}/{name}.pt") for name in MODES}
    rows = {name: compare(found[name], found[REFERENCE], found[f"{name.partition(',')[0]}, ZeRO-2"]) for name in MODES}
    columns = list(rows[REFERENCE])
    print(f"| {args.steps} steps | " + " | ".join(columns) + " |")
    print("|---" * (1 + len(columns)) + "|")
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(f"{row[column]:.4g}" for column in columns) + " |")
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
