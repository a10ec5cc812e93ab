"""Weights go tensor by tensor into shards: no rank ever holds a network whole, and what trains is the same."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import save_file
from torch import nn

from ray_distill.config import RoleConfig, RunConfig
from ray_distill.models import loading as loading_module
from ray_distill.models.loading import hollow_transformer, load_transformer, random_transformer
from ray_distill.models.lora_files import LoRAFile
from ray_distill.rng import StatelessRng
from ray_distill.train.worker import zero
from ray_distill.train.worker.build import build_engines
from ray_distill.train.worker.light_deepspeed import deepspeed
from ray_distill.train.worker.step import train_step
from tests.gang import jobs
from tests.gang.gang import Gang
from tests.peak import Peak
from tests.tiny_wan import tiny_wan
from tests.unit.toys import run_config

MIB = 1 << 20


def loading(rank: int, world: int, folder: str, held: RoleConfig) -> tuple[int, int]:
    """(most bytes that a rank held while it loaded, bytes of its weights afterwards)."""
    gc.collect()  # engines of earlier tests go before it is measured, not meanwhile
    with Peak() as peak:
        network, weights = hollow_transformer("wan", Path(folder), torch.bfloat16)
        zero.fill(network, weights, held)
    return peak.rise, sum(getattr(p, "ds_tensor", p).nbytes for p in network.parameters())


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's count of a process's own pages")
@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_no_rank_holds_a_network_whole_under_zero3(gang: Gang, tmp_path: Path, world: int) -> None:
    sizes = {"num_attention_heads": 8, "attention_head_dim": 64, "ffn_dim": 2048, "num_layers": 10}
    model = WanTransformer3DModel(in_channels=4, out_channels=4, text_dim=8, freq_dim=16, **sizes)
    model.to(torch.bfloat16).save_pretrained(tmp_path / "transformer", max_shard_size="20MB")
    whole = sum(p.numel() * 2 for p in model.parameters())
    assert whole > 70 * MIB and len(list((tmp_path / "transformer").glob("*.safetensors"))) > 3
    gang.kill()  # pages that earlier tests left to these processes would hide a rise
    whole_rise = gang.run(loading, str(tmp_path), RoleConfig(zero=0, dtype="bfloat16"), world=1)[0][0]
    assert whole_rise > 0.9 * whole  # what it is compared with is really seen
    for rise, held in gang.run(loading, str(tmp_path), RoleConfig(zero=3, dtype="bfloat16"), world=world):
        assert held == pytest.approx(whole / world, rel=0.01)
        assert rise < whole / world + 16 * MIB  # the largest tensor, and what the first engine of a rank imports


def once(rank: int, world: int, config: RunConfig) -> dict[str, torch.Tensor]:
    engines = build_engines(config)
    for step in range(2):
        batches = jobs.micro_batches(jobs.Case(micro_batch=8 // world), step, rank, world)
        train_step(config.method, engines, batches, step, StatelessRng(0))
    return {f"{role}/{name}": t.clone() for role, name, t in engines.tensors() if name.startswith("weights/")}


@pytest.mark.parametrize("zero", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_what_is_filled_trains_as_what_is_loaded_whole(gang: Gang, tmp_path: Path, zero: int) -> None:
    for name, seed in (("model", 0), ("other", 1)):
        tiny_wan(seed).save_pretrained(tmp_path / name / "transformer", max_shard_size="20KB")
    trained = {"optimizer": {"learning_rate": jobs.LR}, "zero": zero, "path": str(tmp_path / "other")}
    method = {"name": "dmd", "student_interval": 2, "teacher_guidance": 2.0}
    config = run_config(
        tmp_path, method=method, roles={"student": trained, "fake_score": trained}, train__micro_batch=4
    )
    filled = gang.run(once, config, world=2)[0]
    case = jobs.Case(zero=zero, micro_batch=4, ema_decay=None)
    wanted = gang.run(jobs.run, case, 2, world=2)[0]["tensors"]
    assert {n: t for n, t in filled.items() if not torch.equal(t, wanted[n])} == {}


def reloaded(
    rank: int, world: int, folder: str, held: RoleConfig, loras: tuple[LoRAFile, ...]
) -> dict[str, torch.Tensor]:
    network, weights = hollow_transformer("wan", Path(folder), torch.float32, loras)
    network = zero.fill(network, weights, held)
    network.requires_grad_(False)
    engine = zero.initialize(network, held, 1)
    body: nn.Module = getattr(engine, "module", engine)
    with torch.no_grad():
        x, text = torch.ones(1, 4, 3, 4, 4), torch.ones(1, 5, 8)
        return {"velocity": body(x, torch.tensor([500.0]), text, return_dict=False)[0]}


@pytest.mark.parametrize("offload", [False, True])
def test_shards_give_back_the_network(gang: Gang, tmp_path: Path, offload: bool) -> None:
    tiny_wan(3).save_pretrained(tmp_path / "transformer")
    held = RoleConfig(zero=3, offload_parameters=offload)
    layer = "transformer.blocks.1.ffn.net.2"
    lora = {f"{layer}.lora_A.weight": torch.ones(2, 32), f"{layer}.lora_B.weight": torch.ones(24, 2)}
    save_file(lora, tmp_path / "style.safetensors")
    loras = (LoRAFile(path=tmp_path / "style.safetensors", weight=0.1),) * offload
    x, text = torch.ones(1, 4, 3, 4, 4), torch.ones(1, 5, 8)
    with torch.no_grad():
        wanted = load_transformer("wan", tmp_path, loras=loras)(x, torch.tensor([500.0]), text, return_dict=False)[0]
    for found in gang.run(reloaded, str(tmp_path), held, loras, world=2):
        torch.testing.assert_close(found["velocity"], wanted, rtol=0, atol=1e-6)


def random_start(rank: int, world: int, folder: str) -> tuple[dict[str, torch.Tensor], int]:
    """(the first weights of a student and of a frozen teacher, how often this rank drew a network)."""
    drawn: list[int] = []
    draw = loading_module.random_transformer
    student = {"zero": 3, "init": "random", "dtype": "bfloat16", "optimizer": {"learning_rate": jobs.LR}}
    roles = {"student": student, "fake_score": student, "teacher": {"zero": 3, "init": "random"}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading_module, "random_transformer", lambda *source: drawn.append(1) or draw(*source))
        engines = build_engines(run_config(Path(folder), method={"name": "dmd", "teacher_guidance": 2.0}, roles=roles))
    teacher = engines._roles["teacher"].engine.module
    with deepspeed.zero.GatheredParameters(list(teacher.parameters())):
        whole = {f"teacher/{name}": p.detach().clone() for name, p in teacher.named_parameters()}
    return whole | {f"{role}/{name}": t.clone() for role, name, t in engines.tensors()}, len(drawn)


def test_random_weights_are_drawn_by_one_rank_and_shared_out_exactly(gang: Gang, tmp_path: Path) -> None:
    tiny_wan(0).save_pretrained(tmp_path / "model" / "transformer")
    wanted = dict(random_transformer("wan", tmp_path / "model", run_config(tmp_path).seed).named_parameters())
    (first, draws), (second, none) = gang.run(random_start, str(tmp_path), world=2)
    assert draws == 3 and none == 0 and first.keys() == second.keys()
    for name, published in wanted.items():
        for found in (first, second):
            assert torch.equal(found[f"student/weights/{name}"], published)
            assert torch.equal(found[f"teacher/{name}"], published)
