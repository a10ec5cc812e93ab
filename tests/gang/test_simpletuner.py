"""SimpleTuner's examples on the tiny Wan of examples/: int8 bases, bf16, LoRA of rank 128, both clips, checkpointing
and average, in sharded engines; then the student that a checkpoint holds is sampled."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ray_distill.config import RunConfig
from ray_distill.evaluate.latents import denoiser, make_latents
from ray_distill.evaluate.samples import Candidate
from ray_distill.importers import load_run
from ray_distill.rng import StatelessRng
from ray_distill.train.worker.build import build_engines
from ray_distill.train.worker.step import train_step
from ray_distill.types import STUDENT, Batch
from tests.checkpoints import write
from tests.gang.gang import Gang
from tests.unit.simpletuner.examples import MODEL, home, seed

SHAPE, STEPS = (16, 3, 6, 10), 3  # 9 frames of 48x80
SMALL = ["data.frames=9", "data.resolution=64", "data.height=48", "data.width=80", "evaluate.frames=9", "publish=null"]
SMALL += ["model.max_sequence_length=16", f"train.steps={STEPS}", "roles.student.optimizer.warmup_updates=0"]
SEEDS: dict[str, tuple[str, dict[str, Any]]] = {
    "dmd": ("dmd_config.json", {}),
    "dmd-2-steps-interval-2": (
        "dmd_config.json",
        {"distillation_config": {"dmd_denoising_steps": "1000,500", "generator_update_interval": 2}},
    ),
    "dcm-semantic": ("dcm_config.json", {}),
    "dcm-fine": ("dcm_config.json", {"distillation_config": {"mode": "fine", "semantic_checkpoint": MODEL}}),
}


def batches(step: int, rank: int, world: int) -> Batch:
    ids = torch.tensor([step * world + rank])
    rng = StatelessRng(3, step)
    text = rng.noise("text", ids, (16, 64))
    return Batch(ids, SHAPE, {"text": text}, {"text": 0 * text}, rng.noise("data", ids, SHAPE))


def train(rank: int, world: int, settings: str, out: str) -> dict[str, Any]:
    config = RunConfig.model_validate_json(settings)
    engines = build_engines(config)
    before = engines.frozen_hash()
    rng = StatelessRng(config.seed)
    logs = [train_step(config.method, engines, [batches(s, rank, world)], s, rng) for s in range(STEPS)]
    state = {"step": STEPS, "config": config.dump(), "roles": engines.state()}

    def gather(value: Any) -> list[Any]:
        every: list[Any] = [None] * world
        torch.distributed.all_gather_object(every, value)
        return every

    write(Path(out), engines.tensors(), state, rank, world, gather)
    losses = {name: value for log in logs for name, value in log.items() if name.endswith("_loss")}
    finite = {name: bool(value.isfinite().all()) for name, value in losses.items()}
    return {"same": engines.frozen_hash() == before, "state": engines.state(), "finite": finite}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
    import tiny_wan

    folder = home(tmp_path_factory.mktemp("seed"))
    tiny_wan.main([str(folder / MODEL), "--clips", "2"])
    return folder


@pytest.mark.parametrize("name", SEEDS)
def test_the_seed_trains_and_its_student_samples(
    name: str, gang: Gang, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    file, changes = SEEDS[name]
    path = folder / f"{name}.json"
    path.write_text(json.dumps(seed(file) | {"train_batch_size": 1} | changes))
    config = load_run(path, [*SMALL, "train.workers=2"], environment={}).config
    checkpoint = folder / name
    results = gang.run(train, config.model_dump_json(), str(checkpoint), world=2)
    for result in results:
        assert result["same"] and result["finite"] and all(result["finite"].values())
    updates = {role: counts["updates"] for role, counts in results[0]["state"].items()}
    interval = getattr(config.method, "student_interval", 1)
    assert updates == {role: STEPS // interval if role == STUDENT else STEPS for role in updates}
    denoise = denoiser(config, Candidate(STUDENT, config.method.sampler(), checkpoint), torch.device("cpu"))
    prompt = batches(0, 0, 1)
    made = make_latents(denoise, config.method.sampler(), dict(prompt.cond), dict(prompt.uncond), 0, 0, SHAPE)
    assert made.shape == (1, *SHAPE) and made.isfinite().all()
