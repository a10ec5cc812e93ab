"""diffusers alone replays an exported student, and an export appears whole or not at all."""

import ast
import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from ray_distill.export.diffusers import export_student
from ray_distill.export.student import _samples
from ray_distill.export.verify import verify
from ray_distill.types import Chunks, Experts, Sampler
from tests.tiny_wan import tiny_wan

SDE = Sampler((1000.0, 757.0, 522.0), "sde")
WORDS = ["<pad>", "</s>", "<unk>", "three", "seven", "moving", "left", "right"]


def make_transformer(seed: int) -> WanTransformer3DModel:
    model = tiny_wan(seed, text_dim=16)
    torch.manual_seed(seed)
    with torch.no_grad():  # fresh weights barely read text and timestep; the comparison should
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return model.eval()


def make_base(folder: Path, vae: AutoencoderKLWan | None) -> Path:
    torch.manual_seed(0)
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    WanPipeline(
        tokenizer=PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>"),
        text_encoder=UMT5EncoderModel(UMT5Config(vocab_size=len(WORDS), **sizes)).eval(),
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        transformer=make_transformer(1),
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return make_base(tmp_path_factory.mktemp("teacher"), vae=None)


def export(folder: Path, base: Path, sampler: Sampler = SDE, seed: int = 2, **card) -> Path:
    return export_student(
        folder,
        make_transformer(seed),
        base,
        sampler,
        (4, 3, 6, 4),
        frames=9,
        height=48,
        width=32,
        fps=8,
        max_sequence_length=8,
        card=card,
    )


def test_an_export_holds_the_student_the_recipe_and_a_script(tmp_path, base):
    report = {"student": {"frechet": 25.5, "frechet_spread": 0.9, "accuracy": 0.957, "nfe": 3}}
    folder = export(tmp_path / "out" / "student", base, title="Digits", method="dmd", report=report, seed_of_data=7)
    assert {path.name for path in folder.iterdir()} == {
        "transformer",
        "scheduler",
        "recipe.json",
        "sample.py",
        "README.md",
    }
    weights = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    assert torch.equal(weights["proj_out.weight"], make_transformer(2).proj_out.weight)
    assert not [path for path in folder.rglob("*") if path.suffix in (".bin", ".pt", ".pkl", ".pth", ".ckpt")]

    recipe = json.loads((folder / "recipe.json").read_text())
    assert recipe["timesteps"] == [1000.0, 757.0, 522.0] and recipe["kind"] == "sde" and recipe["guidance_scale"] == 1.0
    assert recipe["latent_shape"] == [4, 3, 6, 4] and recipe["max_sequence_length"] == 8 and recipe["version"] == 1
    assert not Path(recipe["base"]).is_absolute() and (folder / recipe["base"]).resolve() == base.resolve()
    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert scheduler["_class_name"] == "FlowMatchLCMScheduler" and scheduler["shift"] == 1.0

    card = (folder / "README.md").read_text()
    assert card.startswith("---\n") and "library_name: diffusers" in card.split("---")[1]
    assert "base_model" not in card.split("---")[1]  # a local folder is no name on the hub
    assert (
        "# Digits" in card and "25.5 +- 0.9" in card and "seed_of_data: 7" in card and "3 network evaluations" in card
    )
    assert "Seed a call with `torch.manual_seed`" in card
    ode = export(tmp_path / "ode", base, Sampler((1000.0,), "ode"))
    assert "torch.manual_seed" not in (ode / "README.md").read_text()  # a pipeline's generator makes all of its noise


def test_the_card_shows_videos_of_the_student_with_their_prompts(tmp_path, base):
    video = tmp_path / "00_a_kite.mp4"
    video.write_bytes(b"a video")
    folder = export(tmp_path / "out" / "student", base, samples={video: "a kite: red"})
    assert (folder / "samples" / video.name).read_bytes() == b"a video"
    data = ModelCard.load(folder / "README.md").data
    assert data.widget == [{"text": "a kite: red", "output": {"url": f"samples/{video.name}"}}]
    again = export(tmp_path / "out" / "student", base)
    assert not (again / "samples").exists() and "widget" not in ModelCard.load(again / "README.md").data.to_dict()


def test_the_schedulers_file_names_the_students_steps_without_a_warning(tmp_path, base, caplog):
    folder = export(tmp_path / "student", base)
    recipe = json.loads((folder / "recipe.json").read_text())
    document = json.loads((folder / "scheduler/scheduler_config.json").read_text())
    assert document["_student_timesteps"] == recipe["timesteps"]
    logger = diffusers.utils.logging.get_logger("diffusers.configuration_utils")
    logger.addHandler(caplog.handler)
    getattr(diffusers, recipe["scheduler"]).from_pretrained(folder / "scheduler")
    logger.removeHandler(caplog.handler)
    assert caplog.text == ""


def test_the_evaluations_videos_are_the_samples_of_an_export(tmp_path):
    folder = tmp_path / "videos" / "student"
    assert _samples(folder) == {}
    folder.mkdir(parents=True)
    prompts = {f"{n:02d}_x.mp4": f"prompt {n}" for n in range(6)}
    (folder / "prompts.json").write_text(json.dumps(prompts))
    for name in [*prompts][1:]:
        (folder / name).write_bytes(b"")
    assert _samples(folder) == {folder / f"{n:02d}_x.mp4": f"prompt {n}" for n in (1, 2, 3)}  # the first is gone


def test_the_script_is_short_and_needs_diffusers_alone(tmp_path, base):
    source = (export(tmp_path / "student", base) / "sample.py").read_text()
    assert len(source.splitlines()) <= 33
    assert "no key of a scheduler's file can hold" in source
    nodes = list(ast.walk(ast.parse(source)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    foreign = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
    assert foreign == {"torch", "diffusers", "safetensors"}


@pytest.mark.parametrize(
    "sampler",
    [
        SDE,
        pytest.param(Sampler((1000.0, 900.0, 750.0, 500.0), "ode"), marks=pytest.mark.slow),
        pytest.param(Sampler((960.0, 522.0), "sde", guidance_scale=2.5), marks=pytest.mark.slow),
    ],
    ids=["sde", "ode", "guided"],
)
def test_diffusers_reproduces_our_sampler(tmp_path, base, sampler):
    folder = export(tmp_path / "student", base, sampler)
    assert verify(folder, "three moving left", seed=3) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_a_recipe_cut_to_its_first_steps_samples_with_these(tmp_path, base, count):
    folder = export(tmp_path / "student", base, Sampler((1000.0, 833.0, 625.0), "ode"))
    recipe = json.loads((folder / "recipe.json").read_text())
    recipe["timesteps"] = recipe["timesteps"][:count]
    (folder / "recipe.json").write_text(json.dumps(recipe))
    assert verify(folder, "three moving left", seed=3) < 1e-4


@pytest.mark.slow
def test_verify_sees_a_wrong_recipe(tmp_path, base, monkeypatch):
    folder = export(tmp_path / "student", base)
    script = (folder / "sample.py").read_text()
    (folder / "sample.py").write_text(script.replace("t / 1000 for t in times", "0.9, 0.6, 0.3"))
    assert verify(folder, "three moving left", seed=3) > 1e-2
    (folder / "sample.py").write_text("raise SystemExit('no such thing')")
    with pytest.raises(RuntimeError, match="no such thing"):
        verify(folder, "three moving left")


@pytest.mark.slow
def test_with_a_vae_the_script_writes_a_video(tmp_path):
    pytest.importorskip("imageio_ffmpeg", reason="diffusers writes videos through imageio-ffmpeg")
    torch.manual_seed(0)
    statistics = {"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}
    vae = AutoencoderKLWan(base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, **statistics)
    folder = export(tmp_path / "student", make_base(tmp_path / "teacher", vae))
    out = tmp_path / "out.mp4"
    subprocess.run([sys.executable, folder / "sample.py", "seven moving right", out, "1"], check=True, timeout=300)
    import av

    with av.open(str(out)) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        assert video.streams.video[0].average_rate == 8
    assert len(frames) == 9 and frames[0].shape == (48, 32, 3)


def test_a_new_export_replaces_the_old_one_only_when_it_is_whole(tmp_path, base, monkeypatch):
    folder = export(tmp_path / "student", base, seed=2)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr("ray_distill.export.diffusers.model_card", lambda *_: 1 / 0)  # the last thing written
        with pytest.raises(ZeroDivisionError):
            export(folder, base, seed=5)
        patch.undo()
        patch.setattr(Path, "rename", refuse_new(Path.rename))
        with pytest.raises(OSError, match="full disk"):
            export(folder, base, seed=5)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["student"]

    export(folder, base, seed=5)
    weights = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    assert torch.equal(weights["proj_out.weight"], make_transformer(5).proj_out.weight)
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


def refuse_new(rename):
    def renamed(self: Path, target: Path) -> Path:
        if ".new-" in self.name:
            raise OSError("full disk")
        return rename(self, target)

    return renamed


def test_what_cannot_be_exported_is_refused_before_anything_is_written(tmp_path, base):
    with pytest.raises(ValueError, match=r"guidance_scale = 0\.5"):
        export(tmp_path / "student", base, Sampler((1000.0,), "sde", guidance_scale=0.5))
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("dear")
    with pytest.raises(ValueError, match="no export"):
        export(tmp_path / "thesis", base)
    with pytest.raises(ValueError, match=r"model_index\.json"):
        export(tmp_path / "student", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis"]


TWO = Sampler((1000.0, 900.0, 750.0, 500.0), "ode", experts=Experts("student", "teacher", 800.0))


def export_two(folder: Path, base: Path) -> Path:
    size = {"frames": 9, "height": 48, "width": 32, "fps": 8, "max_sequence_length": 8, "card": {}}
    return export_student(folder, make_transformer(2), base, TWO, (4, 3, 6, 4), low=make_transformer(7), **size)


def test_two_experts_are_one_pipeline(tmp_path, base, scripts_in_process):
    """WanPipeline reads transformer_2 and boundary_ratio from the folder, and routes as our sampler does."""
    folder = export_two(tmp_path / "student", base)
    assert verify(folder, "three moving left", seed=3) < 1e-4
    pipe = WanPipeline.from_pretrained(folder, text_encoder=None, tokenizer=None, vae=None)
    assert pipe.config.boundary_ratio == 0.8
    for network, seed in ((pipe.transformer, 2), (pipe.transformer_2, 7)):
        assert torch.equal(network.proj_out.weight, make_transformer(seed).proj_out.weight)
    levels: dict[str, list[float]] = {"transformer": [], "transformer_2": []}
    for name, seen in levels.items():

        def note(module, args, kwargs, seen=seen):
            seen.append(kwargs["timestep"].item())

        getattr(pipe, name).register_forward_pre_hook(note, with_kwargs=True)
    times = list(TWO.timesteps)
    pipe.scheduler.set_timesteps = partial(
        pipe.scheduler.set_timesteps, timesteps=times, sigmas=[t / 1000 for t in times]
    )
    text = torch.zeros(1, 8, 16)
    size = {"height": 48, "width": 32, "num_frames": 9, "num_inference_steps": 4, "guidance_scale": 1.0}
    pipe(prompt_embeds=text, output_type="latent", **size)
    assert levels == {"transformer": [1000.0, 900.0], "transformer_2": [750.0, 500.0]}
    assert "`transformer` predicts at timesteps from 800 up" in (folder / "README.md").read_text()


def test_a_causal_student_has_no_experts(tmp_path, base):
    with pytest.raises(ValueError, match="a recipe of two experts needs two networks"):
        export(tmp_path / "student", base, TWO)
    with pytest.raises(ValueError, match="causal student with two experts"):
        export(tmp_path / "student", base, replace(TWO, chunks=Chunks(1)))
