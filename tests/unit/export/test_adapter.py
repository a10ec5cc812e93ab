"""A student trained as an adapter is exported as a whole transformer and as the adapter; both are the student."""

from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from safetensors import safe_open
from safetensors.torch import load_file

from ray_distill.checkpoint.layout import folder_name
from ray_distill.checkpoint.network import load_network
from ray_distill.export.card import ADAPTER
from ray_distill.export.diffusers import _save_adapters
from ray_distill.export.original import save_adapter
from ray_distill.export.student import export
from ray_distill.models import family
from ray_distill.models.lora import add_lora, plain
from tests.checkpoints import write
from tests.tiny_wan import SHAPE, TEXT, tiny_wan
from tests.unit.toys import run_config

X_T, TIMESTEP, TEXT_STATES = torch.randn(2, *SHAPE), torch.tensor([900.0, 300.0]), torch.randn(2, *TEXT)


def velocity(module: WanTransformer3DModel) -> torch.Tensor:
    with torch.no_grad():
        return module(X_T, TIMESTEP, TEXT_STATES, return_dict=False)[0]


@pytest.fixture
def run(tmp_path: Path):
    """(a configuration, its checkpoint, the network as it was trained, with base and adapter apart)."""
    WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=None,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        transformer=tiny_wan(1),
    ).save_pretrained(tmp_path / "model")
    lora = {"rank": 4, "alpha": 2, "targets": ["to_q", "to_out.0", "ffn.net.2", "proj_out"]}
    student = {"lora": lora, "optimizer": {"learning_rate": 1e-3}, "ema_decay": 0.9}
    config = run_config(tmp_path, roles__student=student)
    network = tiny_wan(1)
    add_lora(network, config.role("student").lora, seed=0)
    torch.manual_seed(0)
    tensors = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
            tensors += [
                ("student", f"ema/{plain(name)}", parameter),
                ("student", f"weights/{plain(name)}", parameter * 9),
            ]
    folder = config.run_dir / folder_name(3)
    write(folder, tensors, {"step": 3}, 0, 1, lambda part: [part])
    return config, folder, network


def test_a_checkpoint_of_adapters_makes_the_student(run):
    config, folder, network = run
    student = load_network(config, "student", folder)
    assert student.state_dict().keys() == tiny_wan(1).state_dict().keys()
    assert (velocity(student) - velocity(network)).abs().max() < 1e-5
    before = load_network(config, "student", None)
    assert torch.equal(velocity(before), velocity(tiny_wan(1)))
    assert (velocity(before) - velocity(network)).abs().max() > 1e-1


def test_diffusers_loads_the_export_whole_or_as_an_adapter(run):
    config, checkpoint, network = run
    folder = export(config, checkpoint, SHAPE)
    whole = WanTransformer3DModel.from_pretrained(folder / "transformer")
    assert (velocity(whole) - velocity(network)).abs().max() < 1e-5
    with safe_open(folder / ADAPTER, "pt") as file:
        assert all(name.startswith("transformer.") for name in file.keys())  # noqa: SIM118 (not a mapping)
    pipe = WanPipeline.from_pretrained(config.model.path, tokenizer=None, text_encoder=None, vae=None)
    assert torch.equal(velocity(pipe.transformer), velocity(tiny_wan(1)))
    pipe.load_lora_weights(folder)
    assert pipe.transformer.peft_config["default_0"].lora_alpha == 2
    assert (velocity(pipe.transformer) - velocity(network)).abs().max() < 1e-5
    assert f"`{ADAPTER}` is the same student as an adapter of rank 4" in (folder / "README.md").read_text()
    assert "`pipe.load_lora_weights` reads it" in (folder / "README.md").read_text()
    assert not (folder / "comfyui_lora.safetensors").exists()


def test_an_adapters_file_is_that_of_the_pipelines_own_writer(run, tmp_path):
    config, checkpoint, _ = run
    folder, lora = export(config, checkpoint, SHAPE), config.role("student").lora
    layers = {name.removeprefix("transformer."): tensor for name, tensor in load_file(folder / ADAPTER).items()}
    WanPipeline.save_lora_weights(
        tmp_path, transformer_lora_layers=layers, transformer_lora_adapter_metadata=lora.peft()
    )
    with safe_open(folder / ADAPTER, "pt") as ours, safe_open(tmp_path / ADAPTER, "pt") as theirs:
        assert ours.metadata() == theirs.metadata() and len(ours.metadata()) == 2
        assert list(ours.keys()) == list(theirs.keys())
        assert all(torch.equal(ours.get_tensor(name), theirs.get_tensor(name)) for name in ours.keys())  # noqa: SIM118


def test_equal_adapters_are_equal_files(run, tmp_path):
    config, checkpoint, _ = run
    tensors = load_file(export(config, checkpoint, SHAPE) / ADAPTER)
    layers = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    lora = config.role("student").lora
    for kind in ("diffusers", "comfyui_lora"):
        files = []
        for number in range(8):  # safetensors draws the order of its metadata for each file
            path = tmp_path / kind / str(number) / "lora.safetensors"
            path.parent.mkdir(parents=True)
            if kind == "diffusers":
                _save_adapters(path.parent, {path.name: (lora, layers)})
            else:
                save_adapter(path, kind, family("wan"), lora, layers)
            files.append(path.read_bytes())
        assert len(set(files)) == 1
        with safe_open(path, "pt") as file:
            assert file.metadata()["format"] == "pt"


def test_files_by_original_names_are_the_same_student(run):
    config, checkpoint, network = run
    formats = {"export_formats": ("comfyui_lora", "original_float32")}
    named = config.model_copy(update={"model": config.model.model_copy(update=formats)})
    folder = export(named, checkpoint, SHAPE)
    assert "`comfyui_lora.safetensors`: the adapter by ComfyUI's names" in (folder / "README.md").read_text()
    pipe = WanPipeline.from_pretrained(config.model.path, tokenizer=None, text_encoder=None, vae=None)
    pipe.load_lora_weights(folder, weight_name="comfyui_lora.safetensors")
    assert (velocity(pipe.transformer) - velocity(network)).abs().max() < 1e-5
    whole = WanTransformer3DModel.from_single_file(
        folder / "original_float32.safetensors", config=str(folder), subfolder="transformer", local_files_only=True
    )
    assert (velocity(whole) - velocity(network)).abs().max() < 1e-5
    card = (folder / "README.md").read_text()
    assert "`original_float32.safetensors`: the whole transformer in one file" in card
    assert "No workflow for ComfyUI: ComfyUI has no VAE for this base's latents of 4 channels." in card
