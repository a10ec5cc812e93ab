"""A pipeline's folder that cannot be trained, or whose student could not leave: refused by its small files alone."""

import json
import shutil
from dataclasses import replace

import pytest

from ray_distill.config import ConfigError
from ray_distill.models import family, parts
from ray_distill.models.parts import check_text, check_tokenizer, check_vae, read_config
from ray_distill.train.driver.check import check
from ray_distill.train.driver.checks.clips import check_size
from ray_distill.train.driver.checks.networks import check_ends, check_networks
from ray_distill.train.driver.checks.pipeline import Ends, check_export, check_parts
from tests.unit.toys import run_config
from tests.unit.train.test_launch import DIGITS, model

INDEX, VAE, TEXT, NET, TOKENIZER = (
    "model_index.json",
    "vae/config.json",
    "text_encoder/config.json",
    "transformer/config.json",
    "tokenizer/tokenizer_config.json",
)


@pytest.fixture
def home(tmp_path):
    shutil.copytree(DIGITS, tmp_path / "model", ignore=shutil.ignore_patterns("metric"))
    (tmp_path / "manifest.jsonl").write_text('{"video": "a.mp4", "caption": "a seven moving left"}\n')
    return tmp_path


def look(home, file):
    """The check that reads ``file``; all of them are part of ``check``."""
    config = run_config(home)
    if file == INDEX:
        check_export(config)
    elif file.startswith("transformer"):
        check_networks(config)
        check_size(config)
    else:
        check_parts(config)


def test_all_of_them_are_part_of_the_check(home):
    check(run_config(home))
    for file in (INDEX, NET, VAE, TEXT, TOKENIZER):
        content = (home / "model" / file).read_bytes()
        (home / "model" / file).write_text("{")
        with pytest.raises(ConfigError, match=r"model\.path = .*copy it again"):
            check(run_config(home))
        (home / "model" / file).write_bytes(content)


def test_a_precision_that_the_family_does_not_read_text_in_is_named(home, monkeypatch):
    config = run_config(home, model__text_encoder_precision="int8")
    check_parts(config)
    with monkeypatch.context() as patch:
        patch.setattr(type(config.model.pipeline), "of", replace(family("wan"), text_precisions=("float32",)))
        with pytest.raises(ConfigError, match=r"precision = int8: family 'wan' reads text in float32; use float32"):
            check_parts(config)


def rewrite(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        (INDEX, {"transformer_2": ["diffusers", "WanTransformer3DModel"]}, "two experts .* transformer_2"),
        (INDEX, {"_class_name": "WanImageToVideoPipeline"}, "describes a WanImageToVideoPipeline"),
        (INDEX, {"text_encoder": ["transformers", "CLIPTextModel"]}, "names text_encoder CLIPTextModel"),
        (
            INDEX,
            {"vae": ["diffusers", "AutoencoderKLWan"]},
            "names a vae AutoencoderKLWan, and vae/config.json a PatchP",
        ),
        (INDEX, {"tokenizer": [None, None]}, "names tokenizer None"),
        (INDEX, {"transformer": ["diffusers", "WanVACETransformer3DModel"]}, "names transformer WanVACE"),
        (VAE, {"_class_name": "AutoencoderKL"}, "_class_name 'AutoencoderKL' is no known codec"),
        (VAE, {"patch": [3, 4]}, "patch = .*three numbers"),
        (VAE, {"patch": [3, 4, 8]}, "mean is .*, and its configuration says"),
        (TEXT, {"model_type": "t5"}, "model_type 't5', and family 'wan' reads text by 'umt5'"),
        (TEXT, {"d_ff": 64}, "wi_0.weight is .* belong to different models"),
        (TEXT, {"d_model": "wide"}, "makes no network"),
        (TEXT, {"num_layers": 10**9}, "num_layers = 1000000000, beyond the limit of 1,000"),
        (NET, {"num_attention_heads": "two"}, "makes no network"),
        (NET, {"num_layers": 10**9}, "num_layers = 1000000000"),
        (NET, {"num_layers": 0}, "more blocks than its configuration says"),
        (NET, {"eps": float("nan")}, "eps = nan"),
        (NET, {"rope_max_seq_len": 2}, r"rope_max_seq_len = 2\); lower data.frames"),
    ],
)
def test_what_its_files_say_is_refused_with_the_reason(home, file, values, message):
    rewrite(home / "model" / file, **values)
    with pytest.raises(ValueError, match=rf"(model\.path = |data\.frames).*{message}"):
        look(home, file)


def test_a_windowed_student_needs_the_positions_of_its_window(home):
    """24 frames are 8 latent frames. Scores see all of them, whatever the student's window."""
    rewrite(home / "model" / NET, rope_max_seq_len=6)
    window = {"num_frame_per_block": 2, "window": 6}

    def run(name, **keys):
        roles = {"student": {"optimizer": {"learning_rate": 1e-4}}}
        roles |= {"fake_score": roles["student"]} if name == "self_forcing" else {}
        return run_config(home, data__frames=24, method={"name": name, **keys}, roles=roles)

    check_size(run("teacher_forcing", **window))
    refusal = r"data.frames: latents have 8 frames, .* at most 6 \(rope_max_seq_len = 6\)"
    for config in (run("teacher_forcing", num_frame_per_block=2), run("self_forcing", **window)):
        with pytest.raises(ConfigError, match=refusal):
            check_size(config)
    rewrite(home / "model" / NET, rope_max_seq_len=5)
    with pytest.raises(ConfigError, match="at most 5"):
        check_size(run("teacher_forcing", **window))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"in_channels": 20}, "its transformer has in_channels 20, and the VAE of model.path makes latents of 16"),
        ({"out_channels": 32}, "its transformer has out_channels 32"),
        ({"text_dim": 128}, "reads text of text_dim 128, and the text encoder of model.path gives 64"),
        ({"image_dim": 24}, "image_dim, so it reads an image"),
        ({"added_kv_proj_dim": 24}, "added_kv_proj_dim, so it reads an image"),
    ],
)
def test_a_transformer_of_another_pipeline_is_refused(home, other, message):
    shutil.rmtree(home / "model")
    model(home / "model", **other)
    with pytest.raises(ConfigError, match=message):
        check_ends(run_config(home), Ends(16, 64))


@pytest.mark.parametrize("file", [INDEX, VAE, TEXT, NET, TOKENIZER, "tokenizer/tokenizer.json"])
def test_small_files_that_are_cut_are_named(home, file):
    path = home / "model" / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ConfigError, match=r"model\.path = .*copy it again"):
        look(home, file)
    path.write_text("[1]")
    with pytest.raises(ConfigError, match=r"model\.path = .*copy it again"):
        look(home, file)


@pytest.mark.parametrize("kind", ["cut", "short", "empty", "missing", "folder", "dangling"])
@pytest.mark.parametrize(
    "file",
    [
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "transformer/diffusion_pytorch_model.safetensors",
    ],
)
def test_weights_that_are_not_whole_are_named(home, file, kind):
    path = home / "model" / file
    content = path.read_bytes()
    path.unlink()
    if kind in ("cut", "short", "empty"):
        path.write_bytes(content[: {"cut": len(content) // 2, "short": len(content) - 1, "empty": 0}[kind]])
    elif kind == "folder":
        path.mkdir()
    elif kind == "dangling":
        path.symlink_to("nowhere")
    with pytest.raises(ValueError, match=rf"model\.path = .*{path.name}"):
        look(home, file)


def test_tokens_must_be_in_the_text_encoders_vocabulary():
    assert check_text(DIGITS, "wan", "model.path") == (64, 20)
    check_tokenizer(DIGITS, 20, "model.path")
    with pytest.raises(ConfigError, match="has the token .*, and the text encoder knows 3"):
        check_tokenizer(DIGITS, 3, "model.path")


def test_a_tokenizer_that_loaded_once_is_not_loaded_again_until_its_files_change(home, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    loads = []
    whole = parts.load_tokenizer
    monkeypatch.setattr(parts, "load_tokenizer", lambda *named: loads.append(named) or whole(*named))
    for _ in range(2):
        check_tokenizer(home / "model", 20, "model.path")
        with pytest.raises(ConfigError, match="has the token .*, and the text encoder knows 3"):
            check_tokenizer(home / "model", 3, "model.path")
    assert len(loads) == 1
    with monkeypatch.context() as patch:
        patch.setattr(parts, "_version", lambda package: "")  # an environment without the readers
        check_tokenizer(home / "model", 20, "model.path")
    assert len(loads) == 2
    settings = home / "model/tokenizer/tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "pad_token": None}))
    with pytest.raises(ConfigError, match="it has no pad token"):
        check_tokenizer(home / "model", 20, "model.path")
    assert len(loads) == 3


def test_a_shipped_pipeline_is_whole():
    assert check_vae(DIGITS, "model.path").channels == 16
    assert read_config(DIGITS / NET, "model.path")["in_channels"] == 16


def test_an_index_of_shards_names_files(home):
    folder = home / "model/text_encoder"
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"shared.weight": "model-00001-of-00001.safetensors"}}))
    look(home, TEXT)
    for broken in ('{"weight_map": {"shared.weight": "none.safetensors"}}', "{}", '{"weight_map": [1]}', "["):
        index.write_text(broken)
        with pytest.raises(ConfigError, match=r"model\.path = .*text_encoder"):
            look(home, TEXT)
