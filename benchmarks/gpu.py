"""Measure seconds and bytes of DMD on one GPU, real architectures on random weights, beside `ray-distill plan`.

    python benchmarks/gpu.py [--only 1.3B] [--cycles 3] [--out gpu.json]      on one GPU
    python benchmarks/gpu.py --tiny                                           small networks, on a CPU as well

It needs torch, this package and the packages of gpu.txt, but no Ray, weights or data. `make gpu-kit` packs these for a
machine with torch. Each case runs in its own process; a failed case is a row with the reason. A cycle has five
fake-score updates and one student update. ``share`` is the counted FLOPs over the card's dense peak, plan's ``mfu``.
The 14B is measured at two depths, and the row of all its 40 layers is extrapolated from them. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from _gpu_cases import INTERVAL, LATENTS, batch_of, cases, configure, engines_of


def timed(work: Callable[[], Any]) -> float:
    """Seconds of ``work``, until the GPU has finished."""
    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    synchronize()
    began = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - began


def training(case: dict[str, Any], folder: Path, device: torch.device, cycles: int) -> dict[str, Any]:
    """Seconds of an update of each kind, of a cycle and of a sample; peak bytes, measured and planned."""
    from ray_distill.diffusion.samplers import sample
    from ray_distill.plan.estimate import estimate
    from ray_distill.rng import StatelessRng
    from ray_distill.train.worker.step import train_step

    config = configure(folder, case)
    engines, batch = engines_of(config, case, device), batch_of(config, case, device)

    def step(number: int) -> float:
        return timed(lambda: train_step(config.method, engines, [batch], number, StatelessRng(0)))

    for number in range(INTERVAL):  # compiles, allocates
        step(number)
    seconds = {number: step(number) for number in range(INTERVAL, INTERVAL * (1 + cycles))}
    both = [s for number, s in seconds.items() if len(config.method.updates(number)) > 1]
    fake = statistics.median(s for number, s in seconds.items() if len(config.method.updates(number)) == 1)
    cycle = statistics.median(both) + (INTERVAL - 1) * fake
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
    planned = estimate(config, LATENTS[case["network"]])
    with torch.no_grad():
        x_T = torch.randn(1, *LATENTS[case["network"]], device=device)
        cond, uncond = ({"text": c["text"][:1]} for c in (batch.cond, batch.uncond))
        student, sampler = engines.networks["student"], config.method.sampler()
        sampling = timed(lambda: sample(student, sampler, x_T, cond, uncond, noise=lambda i: torch.randn_like(x_T)))
    return {
        "student_s": statistics.median(both) - fake,
        "fake_score_s": fake,
        "cycle_s": cycle,
        "sample_s": sampling,
        "flops_per_s": sum(planned.flops.values()) * INTERVAL / cycle,
        "bytes": peak,
        "planned_bytes": planned.peak.total,
        **(saving(engines) if case.get("copies") else {}),
    }


def saving(engines: Any) -> dict[str, float]:
    """Seconds in which a save copies its tensors: into pinned memory, at first and again, and into memory that is
    not. AssertionError where a copy differs."""
    from ray_distill.checkpoint import host

    def copying(buffers: host.Buffers) -> float:
        kept: list[host.Copy] = []
        seconds = timed(lambda: kept.extend(buffers.copy(tensor) for _, _, tensor in engines.tensors()))
        for copy, (_, name, tensor) in zip(kept, engines.tensors(), strict=True):
            assert torch.equal(copy.wait(), tensor.cpu()), name
        buffers.give_back(kept)
        return seconds

    buffers = host.Buffers()
    first, again = copying(buffers), copying(buffers)
    with patch.object(host, "has_room", lambda nbytes: False):
        return {"copy_s": first, "copy_again_s": again, "copy_pageable_s": copying(host.Buffers())}


def drift(case: dict[str, Any], folder: Path, device: torch.device) -> dict[str, Any]:
    """Distance of the student's fp32 masters in bf16 from those in fp32, over the distance that the latter have
    moved."""
    from ray_distill.rng import StatelessRng
    from ray_distill.train.worker.step import train_step

    ways = {}
    for dtype in ("float32", "bfloat16"):
        config = configure(folder, case | {"dtype": dtype})
        engines = engines_of(config, case, device)
        torch.manual_seed(1)
        batch = batch_of(config, case, device)

        def student(engines: Any = engines) -> torch.Tensor:
            kept = (t for role, name, t in engines.tensors() if role == "student" and name.startswith("weights/"))
            return torch.cat([tensor.detach().float().flatten().cpu() for tensor in kept])

        start = student()
        for number in range(case["drift"]):
            train_step(config.method, engines, [batch], number, StatelessRng(0))
        ways[dtype] = student() - start
    exact, rounded = ways["float32"], ways["bfloat16"]
    return {
        "steps": case["drift"],
        "drift": float((rounded - exact).norm() / exact.norm()),
        "cosine": float(torch.nn.functional.cosine_similarity(rounded, exact, dim=0)),
    }


def part(case: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Seconds of a clip through Wan's VAE in fp32, or of a prompt through its text encoder in bf16."""
    if case["part"] == "vae":
        from diffusers import AutoencoderKLWan

        small = {"base_dim": 8, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1} if case["tiny"] else {}
        with device, torch.no_grad():
            vae = AutoencoderKLWan(**small).eval()
            clip = torch.randn(1, 3, *((5, 32, 32) if case["tiny"] else (81, 480, 832)))
            latents = vae.encode(clip).latent_dist.mean
            encode, decode = timed(lambda: vae.encode(clip)), timed(lambda: vae.decode(latents))
        return {"encode_s": encode, "decode_s": decode}
    from transformers import UMT5Config, UMT5EncoderModel

    xxl = {"vocab_size": 256384, "d_model": 4096, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
    small = {"vocab_size": 32, "d_model": 16, "d_ff": 32, "num_layers": 2, "num_heads": 4, "d_kv": 4}
    torch.set_default_dtype(torch.bfloat16)
    with device, torch.no_grad():
        encoder = UMT5EncoderModel(UMT5Config(**(small if case["tiny"] else xxl))).eval()
        tokens = torch.randint(0, 32, (1, 512))
        encoder(tokens)
        return {"encode_s": timed(lambda: encoder(tokens))}


def agreement(folder: Path, device: torch.device) -> list[float]:
    """The student's weights after two cycles of a tiny network in fp32, with the CPU's first weights."""
    from ray_distill.rng import StatelessRng
    from ray_distill.train.worker.step import train_step

    case = {"network": "tiny", "dtype": "float32"}
    config = configure(folder, case)
    cpu = torch.device("cpu")
    engines, batch = engines_of(config, case, cpu), batch_of(config, case, cpu)
    moved = type(batch)(
        batch.sample_ids.to(device),
        batch.latent_shape,
        *({"text": cond["text"].to(device)} for cond in (batch.cond, batch.uncond)),
    )
    for number in range(2 * INTERVAL):
        train_step(config.method, engines, [moved], number, StatelessRng(0))
    kept = (t for role, name, t in engines.tensors() if role == "student" and name.startswith("weights/"))
    return [float(value) for tensor in kept for value in tensor.flatten()]


def measure(case: dict[str, Any], cycles: int) -> Any:
    """Run one case in its own process."""
    device = torch.device(case.get("device") or ("cuda" if torch.cuda.is_available() else "cpu"))
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", DS_ACCELERATOR=device.type)
    import torch.distributed as dist

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo", init_method=f"file://{folder}/store", rank=0, world_size=1
        )
        if "part" in case:
            return part(case, device)
        if "drift" in case:
            return drift(case, folder, device)
        return agreement(folder, device) if "agreement" in case else training(case, folder, device, cycles)


def run(case: dict[str, Any], cycles: int) -> Any:
    """Results of the case's process, or {"failed": its last line}."""
    command = [sys.executable, __file__, "--case", json.dumps(case), "--cycles", str(cycles)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:200]}
    return json.loads(done.stdout.splitlines()[-1])


def whole(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Row of 14B with all its layers, extrapolated from two depths."""
    low, high = ([r for r in rows if r.get("layers") == n and r.get("network") == "14B"] for n in (2, 4))
    if not low or not high or "failed" in low[0] | high[0]:
        return None
    names = ("student_s", "fake_score_s", "cycle_s", "sample_s", "bytes")
    at = {name: low[0][name] + (high[0][name] - low[0][name]) / 2 * 38 for name in names if low[0][name] is not None}
    return high[0] | at | {"layers": 40, "by": "the line through 2 and 4 layers", "share": None, "planned_bytes": None}


def line(row: dict[str, Any]) -> str:
    shown = {k: v for k, v in row.items() if k not in ("flops_per_s", "tiny", "steps")}
    texts = [f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in shown.items() if v is not None]
    return "  ".join(texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--only", help="a network: 1.3B, 5B or 14B")
    parser.add_argument("--cycles", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measure(args.case, args.cycles)))
        return
    if not args.tiny and not torch.cuda.is_available():
        parser.exit(2, "no GPU is at hand: --tiny runs small networks on a CPU\n")
    from ray_distill.plan.hardware import GPUS

    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "a CPU"
    known = [gpu for name, gpu in GPUS.items() if name.partition("-")[0].lower() in card.lower().replace(" ", "")]
    versions = {name: __import__(name).__version__ for name in ("torch", "diffusers", "deepspeed", "peft")}
    print(f"{card}; {', '.join(f'{name} {version}' for name, version in versions.items())}\n")
    rows = []
    for case in cases(args.tiny):
        if args.only not in (None, case.get("network")):
            continue
        row = case | run(case, args.cycles)
        if known and "flops_per_s" in row:
            row["share"] = row["flops_per_s"] / known[0].peak(case["dtype"])
        rows.append(row)
        print(line(row), flush=True)
    if (full := whole(rows)) is not None:
        rows.append(full)
        print(line(full))
    devices = ("cpu", "cuda" if torch.cuda.is_available() else "cpu")
    ours, theirs = (run({"agreement": True, "device": device}, 1) for device in devices)
    most = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    print(f"{devices[0]} and {devices[1]} differ by {most:.2e} at most after {2 * INTERVAL} steps of a tiny network")
    text = json.dumps({"card": card, "versions": versions, "rows": rows, "devices": devices, "difference": most})
    if args.out:
        args.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
