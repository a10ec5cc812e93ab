"""Export and load of a Wan as wide as 14B, with one of its 40 blocks: the memory that they hold, measured."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel

from ray_distill.checkpoint.layout import folder_name
from ray_distill.checkpoint.network import load_network, outline
from ray_distill.config import RunConfig
from ray_distill.export.shards import save_network
from ray_distill.models import family
from ray_distill.plan.sampling import sampling
from tests.checkpoints import write
from tests.peak import Peak
from tests.unit.toys import run_config

MIB = 1 << 20
SHARD = 600 * MIB
ROLES = ("student", "fake_score", "teacher")
PUBLISHED = family("wan").published_folder / "Wan2.1-T2V-14B-Diffusers.json"

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's count of own pages")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Path]:
    """(a configuration over the bf16 network, a checkpoint of its fp32 weights)."""
    home = tmp_path_factory.mktemp("wide")
    described = json.loads(PUBLISHED.read_text())["transformer"] | {"num_layers": 1}
    network = WanTransformer3DModel.from_config(described).to(torch.bfloat16)
    network.save_pretrained(home / "model/transformer", max_shard_size=SHARD)
    config = run_config(home, evaluate__batch=1, **{f"roles__{role}__dtype": "bfloat16" for role in ROLES})
    folder = config.run_dir / folder_name(1)
    trained = (("student", f"weights/{name}", p.detach().float()) for name, p in network.named_parameters())
    write(folder, trained, {"step": 1}, 0, 1, lambda part: [part])
    return config, folder


def exported(config: RunConfig, checkpoint: Path, out: Path, dtype: torch.dtype) -> int:
    with Peak() as peak:
        network, tensors = outline(config, "student", checkpoint, dtype)
        save_network(out, network, tensors, SHARD if dtype == torch.bfloat16 else 2 * SHARD)
    return peak.rise


def loaded(config: RunConfig, checkpoint: Path) -> tuple[int, int]:
    """(bytes that loading takes, bytes of the network)."""
    with Peak() as peak:
        network = load_network(config, "student", checkpoint, dtype=torch.bfloat16)
    return peak.rise, sum(parameter.nbytes for parameter in network.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_an_export_holds_no_more_than_a_shard(run: tuple[RunConfig, Path], tmp_path: Path, dtype: torch.dtype) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as process:
        rise = process.apply(exported, (*run, tmp_path, dtype))
    files = [path.stat().st_size for path in tmp_path.glob("*.safetensors")]
    assert len(files) > 1 and sum(files) > 1000 * MIB
    assert rise < 1.2 * max(files)


def test_a_network_is_loaded_at_the_bytes_that_plan_says(run: tuple[RunConfig, Path]) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as process:
        rise, network = process.apply(loaded, run)
    planned = sampling(run[0], (16, 3, 4, 4))
    assert network == pytest.approx(planned.weights, rel=0.001)
    assert network <= rise < planned.weights + 1.2 * planned.tensor
