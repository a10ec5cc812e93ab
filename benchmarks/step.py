"""Time DMD steps of the quick start: a bare PyTorch loop, DeepSpeed alone, our engines, and the whole run, in turn.

    python benchmarks/step.py [--workers 1] [--cycles 8] [--like fastgen|fastvideo] [key=value ...]

All run in the same Ray Train workers, one cycle each in turn. A cycle is ``student_interval`` steps: as many fake-score
updates and one student update. "DeepSpeed alone" calls its engines without our code; "run" adds Ray Data's batches and
the rows to the driver. It prints seconds per cycle (median), the ratio, the time of each part, and forwards by role.

``--like`` takes the steps, rollouts, guidance and updates under which FastGen or FastVideo distil Wan 2.1 1.3B, on the
quick start's network; with ``model.path=`` and a dataset of your own also their clips, batches and dtype.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch

from ray_distill.config import RunConfig, load_config
from ray_distill.train.driver.cluster import cluster
from ray_distill.train.driver.fit import stream_of, trainer
from ray_distill.train.launch import make_cache
from ray_distill.train.wire.board import start_board
from ray_distill.train.wire.job import Job

ROOT = Path(__file__).parents[1]
LIKE = {
    "fastgen": [  # a student update takes a fake-score update's place in each five steps, on noised clips
        *("method.timesteps=[999, 937, 833, 624]", "method.rollout=ode", "method.backward_simulation=false"),
        *("method.student_interval=4", "method.teacher_guidance=5", "method.ts_schedule=false"),
    ],
    "fastvideo": [
        *("method.timesteps=[1000, 757, 522]", "method.rollout=sde", "method.backward_simulation=true"),
        *("method.student_interval=5", "method.teacher_guidance=3.5", "method.ts_schedule=false"),
    ],
}
"""How each peer's script for Wan 2.1 1.3B trains (docs/benchmarks.md names versions), without a GAN term."""
SIZES = [
    *("data.frames=81", "data.height=480", "data.width=832", "model.max_sequence_length=512", "train.micro_batch=1"),
    *(f"roles.{role}.dtype=bfloat16" for role in ("student", "fake_score", "teacher")),
]
"""The clips of both scripts, one in a worker's step, and the dtype."""


def settings(like: str | None, workers: int, given: list[str]) -> list[str]:
    """Overrides of the quick start: 16 of its clips a worker, or a peer's rollouts, and its sizes where ``given`` has
    a network."""
    if like and any(override.startswith("model.path=") for override in given):
        keys, clips = [*LIKE[like], *SIZES], 1
    else:
        keys, clips = LIKE[like] if like else [], 16
    return [*keys, f"train.workers={workers}", f"train.global_batch={clips * workers}", *given]


class Loop:
    """One way to take updates. ``seconds`` by phase: forward, backward, descent."""

    def __init__(self, config: RunConfig) -> None:
        self.config, self.seconds = config, Counter[str]()
        self.modules: dict[str, Any] = {}
        self.networks: Mapping[str, Any] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - began

    def load(self) -> dict[str, Any]:
        """The networks of a run, on this worker's device and in their roles' dtype."""
        from ray_distill.train.worker.build import transformer

        self.modules = {role: transformer(self.config, role) for role in self.roles}
        return self.modules

    def denoisers(self, networks: Mapping[str, Any]) -> dict[str, Any]:
        from ray_distill.models.wan.network import WanDenoiser
        from ray_distill.train.worker.zero import DTYPES

        return {role: WanDenoiser(each, DTYPES[self.config.role(role).dtype]) for role, each in networks.items()}

    @property
    def roles(self) -> Mapping[str, str]:
        return self.config.method.roles

    def take(self, role: str, loss: Callable[[], Any]) -> None:
        raise AssertionError("each loop takes its updates in its own way")

    def step(self, step: int, batch: Any) -> None:
        from ray_distill.rng import StatelessRng

        for update in self.config.method.updates(step):
            role = update.role
            self.take(role, lambda u=update: u.loss(self.networks, batch, StatelessRng(0, step), {}))  # type: ignore[misc]


class Bare(Loop):
    """The smallest loop that trains: plain modules, plain AdamW on weights of the role's dtype, gradients averaged and
    clipped."""

    def __init__(self, config: RunConfig) -> None:
        import torch

        super().__init__(config)
        self.optimizers = {}
        for role, module in self.load().items():
            module.requires_grad_(self.roles[role] == "trained")
            if self.roles[role] == "trained":
                held = config.role(role).optimizer
                assert held is not None
                self.optimizers[role] = torch.optim.AdamW(
                    module.parameters(), held.learning_rate, held.betas, held.eps, held.weight_decay
                )
        self.networks = self.denoisers(self.modules)

    def take(self, role: str, loss: Callable[[], Any]) -> None:
        import torch
        import torch.distributed as dist

        with self.phase("forward"):
            value = loss().loss
        with self.phase("backward"):
            value.backward()
        with self.phase("descent"):
            parameters = list(self.modules[role].parameters())
            if dist.get_world_size() > 1:
                flat = torch.cat([p.grad.flatten() for p in parameters])
                dist.all_reduce(flat)
                for p, piece in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
                    p.grad.copy_(piece.view_as(p) / dist.get_world_size())
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            self.optimizers[role].step()
            self.optimizers[role].zero_grad()


class Alone(Loop):
    """DeepSpeed's engines alone: no average, no schedule, no logs."""

    def __init__(self, config: RunConfig) -> None:
        from ray_distill.train.worker import zero

        super().__init__(config)
        micro = config.train.micro_batch
        self.engines = {role: zero.initialize(m, config.role(role), micro) for role, m in self.load().items()}
        self.networks = self.denoisers(self.engines)

    def take(self, role: str, loss: Callable[[], Any]) -> None:
        with self.phase("forward"):
            value = loss().loss
        with self.phase("backward"):
            self.engines[role].backward(value)
        with self.phase("descent"):
            self.engines[role].step()


class Ours(Loop):
    def __init__(self, config: RunConfig) -> None:
        from ray_distill.models.wan.network import WanDenoiser
        from ray_distill.train.worker.engines import DeepSpeedEngines

        super().__init__(config)
        roles = {role: config.role(role) for role in self.roles}
        totals = dict.fromkeys(self.roles, 1 << 30)
        self.engines = DeepSpeedEngines(self.load().items(), roles, WanDenoiser, totals, config.train.micro_batch)
        self.networks = self.engines.networks

    def take(self, role: str, loss: Callable[[], Any]) -> None:
        with self.engines.training(role):
            with self.phase("forward"):
                value = loss().loss
            with self.phase("backward"):
                self.engines.backward(role, value, last=True)
            with self.phase("descent"):
                self.engines.step(role)


class Run(Ours):
    """The work of a run's worker: batches from Ray Data, ``train_step``, rows to the driver's board."""

    def __init__(self, config: RunConfig, job: Job, batches: Iterator[Any], device: Any) -> None:
        from ray_distill.train.wire.heartbeat import Pulse
        from ray_distill.train.worker.loop import Reporter, resumed_rollouts
        from ray_distill.types import Placement

        super().__init__(config)
        context = ray.train.get_context()
        placement = Placement(context.get_world_rank(), context.get_world_size())
        self.batches, self.done = batches, 0
        rollouts, pulse = resumed_rollouts(config, placement, None, device), Pulse(job.board, placement.data_rank)
        self.reporter = Reporter(job, placement, self.engines, device, pulse, rollouts)

    def step(self, step: int, batch: Any) -> None:
        from ray_distill.rng import StatelessRng
        from ray_distill.train.worker.step import train_step

        with self.phase("data"):
            given = next(self.batches)
        with self.phase("train_step"):
            logs = train_step(self.config.method, self.engines, given, step, StatelessRng(0))
        with self.phase("report"):
            self.reporter.add(self.done, logs)
        self.done += 1


def worker(settings: dict[str, Any]) -> None:
    import torch

    from ray_distill.data.feed.batches import micro_batches
    from ray_distill.data.feed.fetch import rows_ahead
    from ray_distill.types import Placement

    torch.set_num_threads(1)
    job: Job = settings["job"]
    config, context = job.config, ray.train.get_context()
    placement, device = Placement(context.get_world_rank(), context.get_world_size()), ray.train.torch.get_device()
    job.resume_point()
    rows = rows_ahead(lambda: ray.train.get_dataset_shard("train"), job.stream.micro_batch)
    batches = micro_batches(job.stream, rows, placement, device)
    (first, *_) = next(batches)
    loops = {
        "bare": Bare(config),
        "DeepSpeed alone": Alone(config),
        "engines": Ours(config),
        "run": Run(config, job, batches, device),
    }
    interval = config.method.student_interval  # type: ignore[attr-defined]
    forwards = {name: count(loop, interval, first) for name, loop in loops.items()}  # warms up, too
    cycles: dict[str, list[float]] = {name: [] for name in loops}
    for loop in loops.values():
        loop.seconds.clear()
    for _ in range(settings["cycles"]):
        for name, loop in loops.items():
            began = time.perf_counter()
            for step in range(interval):
                loop.step(step, first)
            cycles[name].append(time.perf_counter() - began)
    if placement.data_rank == 0:
        phases = {n: {p: s / settings["cycles"] for p, s in loop.seconds.items()} for n, loop in loops.items()}
        Path(settings["out"]).write_text(json.dumps({"cycles": cycles, "phases": phases, "forwards": forwards}))


def count(loop: Loop, interval: int, batch: Any) -> Counter[str]:
    """Count forwards of each role in one cycle, by hooks."""
    import torch

    counts: Counter[str] = Counter()

    def hook(role: str) -> Callable[..., None]:
        return lambda *_: counts.update([f"{role} {'with' if torch.is_grad_enabled() else 'without'} gradient"])

    handles = [module.register_forward_pre_hook(hook(role)) for role, module in loop.modules.items()]
    for step in range(interval):
        loop.step(step, batch)
    for handle in handles:
        handle.remove()
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--cycles", type=int, default=8)
    parser.add_argument("--like", choices=LIKE, help="a peer whose rollouts and sizes are taken")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as folder, cluster(log_to_driver=False):
        script = [sys.executable, ROOT / "examples/moving_digits.py", f"{folder}/digits", "--count", "120"]
        subprocess.run(script, check=True, stdout=subprocess.DEVNULL)
        config = load_config(
            ROOT / "configs/quickstart.yaml",
            [
                f"output_dir={folder}/output",
                f"data.manifest={folder}/digits/manifest.jsonl",
                f"data.cache_dir={folder}/cache",
                f"model.path={ROOT / 'examples/digits_teacher'}",
                *settings(args.like, args.workers, args.overrides),
            ],
            environment={},
        ).config
        cache, board = make_cache(config), start_board(config.train.hang_timeout_s)
        job = Job(config.dump(), config.run_dir, stream_of(config, cache), board, None)
        fit = trainer(job)
        out = f"{folder}/measured.json"
        fit.train_loop_per_worker = worker
        fit.train_loop_config = {"job": job, "cycles": args.cycles, "out": out}
        fit.fit()
        measured = json.loads(Path(out).read_text())
    report(measured, args.workers)


def report(measured: dict[str, Any], workers: int) -> None:
    medians = {name: statistics.median(values) for name, values in measured["cycles"].items()}
    print(f"{workers} worker{'s' * (workers > 1)}")
    print(f"{'loop':16} {'s/cycle':>8} {'ratio':>6}   seconds of a cycle by phase")
    for name, value in medians.items():
        phases = "  ".join(f"{phase} {seconds:.3f}" for phase, seconds in measured["phases"][name].items())
        print(f"{name:16} {value:8.3f} {value / medians['bare']:6.2f}   {phases}")
    for name, counts in measured["forwards"].items():
        print(f"{name}: " + ", ".join(f"{count} x {what}" for what, count in sorted(counts.items())))
    ratios = {name: value / medians["bare"] for name, value in medians.items()}
    print(json.dumps({"workers": workers, "seconds_per_cycle": medians, "ratios": ratios, **measured}))


if __name__ == "__main__":
    main()
