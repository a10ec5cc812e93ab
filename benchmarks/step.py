"""DMD steps of the quick start: our engines against a bare PyTorch loop, in turn, in one process.

    python benchmarks/step.py [--cycles 6]

A cycle is ``student_interval`` steps: as many fake-score updates and one student update. Prints a table and JSON:
seconds a cycle (median), the ratio, and the forwards of each role, with and without gradient.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ray_distill.config import load_config
from ray_distill.models.loading import load_transformer
from ray_distill.models.wan import WanDenoiser
from ray_distill.rng import StatelessRng
from ray_distill.train.engines import SeparateEngines
from ray_distill.types import Batch, LossTerms

ROOT = Path(__file__).parents[1]


class Bare:
    """The least that trains: plain modules, plain AdamW, clipped gradients."""

    def __init__(self, config: Any) -> None:
        self.modules, self.optimizers = {}, {}
        for role, need in config.method.roles.items():
            module = load_transformer(config.model.family, config.source(role))
            self.modules[role] = module.requires_grad_(need == "trained")
            if need == "trained":
                settings = config.role(role).optimizer
                self.optimizers[role] = torch.optim.AdamW(
                    module.parameters(), settings.learning_rate, settings.betas, settings.eps, settings.weight_decay
                )
        self.networks = {role: WanDenoiser(module) for role, module in self.modules.items()}

    def update(self, role: str, loss: Callable[[], LossTerms]) -> None:
        loss().loss.backward()
        torch.nn.utils.clip_grad_norm_(self.modules[role].parameters(), 1.0)
        self.optimizers[role].step()
        self.optimizers[role].zero_grad()


class Ours:
    def __init__(self, config: Any) -> None:
        modules = {r: load_transformer(config.model.family, config.source(r)) for r in config.method.roles}
        roles = {role: config.role(role) for role in modules}
        totals = {role: 1 << 30 for role in modules}
        self.modules = modules
        self.engines = SeparateEngines(modules.items(), roles, WanDenoiser, totals, config.train.micro_batch)
        self.networks = self.engines.networks

    def update(self, role: str, loss: Callable[[], LossTerms]) -> None:
        with self.engines.training((role,)):
            self.engines.backward((role,), loss().loss, last=True)
            self.engines.step((role,))


def cycle(held: Bare | Ours, config: Any, batch: Batch) -> float:
    """Seconds of one cycle, after which every role has had its updates."""
    began = time.perf_counter()
    for step in range(config.method.student_interval):
        for update in config.method.updates(step):
            (role,) = update.roles
            held.update(role, lambda u=update, s=step: u.loss(held.networks, batch, StatelessRng(0, s), {}))
    return time.perf_counter() - began


def count_forwards(held: Bare | Ours, config: Any, batch: Batch) -> Counter[str]:
    counts: Counter[str] = Counter()

    def hook(role: str) -> Callable[..., None]:
        return lambda *_: counts.update([f"{role}, {'with' if torch.is_grad_enabled() else 'without'} gradient"])

    handles = [module.register_forward_pre_hook(hook(role)) for role, module in held.modules.items()]
    cycle(held, config, batch)
    for handle in handles:
        handle.remove()
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=6)
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = "0"  # DeepSpeed asks for it, as a launcher would set it
    config = load_config(ROOT / "configs/quickstart.yaml", environment={}).config
    ids = torch.arange(config.train.micro_batch)
    text: Tensor = StatelessRng(0).noise("text", ids, (8, 64))
    batch = Batch(ids, (16, 3, 6, 6), {"text": text}, {"text": torch.zeros_like(text)})
    with tempfile.NamedTemporaryFile() as store:
        dist.init_process_group("gloo", init_method=f"file://{store.name}", rank=0, world_size=1)
        held = {"bare": Bare(config), "engines": Ours(config)}
        forwards = {name: count_forwards(each, config, batch) for name, each in held.items()}  # warms up, too
        seconds: dict[str, list[float]] = {name: [] for name in held}
        for _ in range(args.cycles):
            for name, each in held.items():
                seconds[name].append(cycle(each, config, batch))
        dist.destroy_process_group()
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{'loop':10} {'s/cycle':>8} {'ratio':>6}")
    for name, value in medians.items():
        print(f"{name:10} {value:8.3f} {value / medians['bare']:6.2f}")
    for name, counts in forwards.items():
        print(f"{name}: " + ", ".join(f"{count} x {what}" for what, count in sorted(counts.items())))
    ratio = medians["engines"] / medians["bare"]
    print(json.dumps({"seconds_per_cycle": medians, "ratio": ratio, "forwards": forwards}))


if __name__ == "__main__":
    main()
