"""Shards written tensor by tensor: diffusers reads them, and only a small part of a network is in memory."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors import safe_open
from torch import Tensor

from ray_distill.checkpoint.layout import folder_name
from ray_distill.checkpoint.network import load_network, outline
from ray_distill.config import RunConfig
from ray_distill.export.shards import save_network
from tests.checkpoints import write
from tests.tiny_wan import tiny_wan
from tests.unit.toys import run_config


@pytest.fixture
def run(tmp_path: Path) -> tuple[RunConfig, Path]:
    """(a configuration over a tiny folder, a checkpoint of another network's full weights)."""
    tiny_wan(1).save_pretrained(tmp_path / "model/transformer")
    config = run_config(tmp_path)
    folder = config.run_dir / folder_name(3)
    trained = [("student", f"weights/{name}", p.detach()) for name, p in tiny_wan(2).named_parameters()]
    write(folder, trained, {"step": 3}, 0, 1, lambda part: [part])
    return config, folder


class Watched(Mapping[str, Tensor]):
    """Mapping of tensors that counts the bytes still alive of the tensors that it gave."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors, self.now, self.most = tensors, 0, 0

    def __getitem__(self, name: str) -> Tensor:
        tensor = self.tensors[name].clone()
        self.now += tensor.nbytes
        self.most = max(self.most, self.now)
        weakref.finalize(tensor, self._free, tensor.nbytes)
        return tensor

    def _free(self, size: int) -> None:
        self.now -= size

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("most", [10**9, 9000])
def test_diffusers_reads_what_was_trained(
    run: tuple[RunConfig, Path], tmp_path: Path, dtype: torch.dtype, most: int
) -> None:
    config, checkpoint = run
    network, tensors = outline(config, "student", checkpoint, dtype)
    assert tensors is not None and all(p.is_meta for p in network.parameters())
    watched = Watched(tensors)
    save_network(tmp_path / "out", network, watched, most)
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 3 if most == 9000 else len(files) == 1
    largest = max(p.nbytes for p in tiny_wan(2).parameters())
    assert watched.most <= largest
    read = WanTransformer3DModel.from_pretrained(tmp_path / "out", torch_dtype=dtype)
    kept = {name for name, p in network.named_parameters() if p.dtype == torch.float32}
    assert (dtype == torch.float32) == (len(kept) == len(tensors))
    wanted = dict(tiny_wan(2).named_parameters())
    for name, parameter in read.named_parameters():
        assert torch.equal(parameter, wanted[name].to(parameter.dtype)), name
    for file in files:
        with safe_open(file, "pt") as opened:
            assert opened.metadata() == {"format": "pt"}
            for name in opened.keys():  # noqa: SIM118 (not a mapping)
                assert torch.equal(opened.get_tensor(name), wanted[name].to(network.get_parameter(name).dtype))


def test_the_files_are_diffusers_own(run: tuple[RunConfig, Path], tmp_path: Path) -> None:
    config, checkpoint = run
    save_network(tmp_path / "ours", *outline(config, "student", checkpoint))
    save_network(tmp_path / "theirs", load_network(config, "student", checkpoint), None)
    names = [sorted(path.name for path in (tmp_path / folder).iterdir()) for folder in ("ours", "theirs")]
    assert names[0] == names[1]
    configs = [json.loads((tmp_path / folder / "config.json").read_text()) for folder in ("ours", "theirs")]
    assert configs[0].items() >= {k: v for k, v in configs[1].items() if not k.startswith("_")}.items()


def test_a_role_is_loaded_in_its_own_dtype(run: tuple[RunConfig, Path]) -> None:
    config, checkpoint = run
    half = load_network(config, "student", checkpoint, dtype=torch.bfloat16)
    whole = load_network(config, "student", checkpoint)
    dtypes = {name: p.dtype for name, p in half.named_parameters()}
    assert dtypes["blocks.0.attn1.to_q.weight"] == torch.bfloat16 and dtypes["scale_shift_table"] == torch.float32
    assert all(torch.equal(p, whole.get_parameter(n).to(p.dtype)) for n, p in half.named_parameters())
    assert not any(p.requires_grad for p in half.parameters()) and not half.training


def test_weights_of_another_model_are_named(run: tuple[RunConfig, Path]) -> None:
    config, checkpoint = run
    (config.model.path / "transformer/config.json").unlink()
    WanTransformer3DModel.from_config(dict(tiny_wan(0).config) | {"num_layers": 1}).save_pretrained(
        config.model.path / "transformer"
    )
    with pytest.raises(ValueError, match=r"the weights are another model's: blocks\.1\..* does not fit"):
        outline(config, "student", checkpoint)
