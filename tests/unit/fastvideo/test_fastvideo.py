"""FastVideo's files: every key has an effect on a configuration, a note that says why it has none, or a refusal."""

import json
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from ray_distill.cli import main
from ray_distill.config import ConfigError
from ray_distill.config.keys import flatten
from ray_distill.data.prepare.listing import entries
from ray_distill.fastvideo.keys import KEYS, SECTIONS
from ray_distill.importers import load_run

ROOT = Path(__file__).parents[3]
FILES = ROOT / "tests" / "data" / "fastvideo"
DIGITS = ROOT / "examples" / "digits_teacher"


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name in ("model", "other"):
        (tmp_path / name).symlink_to(DIGITS)
    (tmp_path / "start.safetensors").write_bytes(b"")
    for worker, captions in enumerate((["a kite", "a bird"], ["a fish"])):
        folder = tmp_path / f"clips/worker_{worker}"
        folder.mkdir(parents=True)
        embedded = [b"\0" * 64] * len(captions)
        shape = [[4, 4]] * len(captions)
        rows = {"id": captions, "caption": captions, "text_embedding_bytes": embedded, "text_embedding_shape": shape}
        pq.write_table(pa.table(rows), folder / "data_chunk_0.parquet")
    (tmp_path / "validation.json").write_text(json.dumps({"data": [{"caption": "a fox"}, {"caption": "an owl"}]}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def content(name):
    return yaml.safe_load((FILES / f"{name}.yaml").read_text())


def load(home, tree, *overrides):
    (home / "run.yaml").write_text(yaml.safe_dump(tree))
    return load_run(home / "run.yaml", overrides, environment={})


def changed(name, key, value):
    """The file ``name`` with another value of a key; without the key where ``value`` is None."""
    tree = content(name)
    *above, last = key.split(".")
    section = tree
    for part in above:
        section = section.setdefault(part, {})
    section[last] = value
    return tree


def flat(loaded):
    return flatten(loaded.config.dump())


def test_the_two_files_have_every_key_and_load(home):
    stated = set()
    for name in ("dmd", "self_forcing"):
        loaded = load(home, content(name))
        lines = [line for line in loaded.report if " (its default)" not in line]
        keys = {line.split(" = ")[0] for line in lines}
        assert all(" -> " in line and not line.endswith("-> ") for line in lines)
        assert all(line.endswith("accepted") is False for line in lines if "roles." not in line), lines
        stated |= keys
        nothing = {key for key, value in _walked(content(name)) if value is None}
        assert {key for key, _ in _walked(content(name))} - nothing == keys
        stated |= nothing
    models = {key.split(".", 2)[2] for key in stated if key.startswith("models.")}
    assert models == set(SECTIONS["models.ROLE"])
    assert {key for key in KEYS if not key.startswith("models.")} <= stated


def _walked(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, dict) and value and f"{prefix}{key}" not in KEYS:
            yield from _walked(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def test_a_dmd_run_becomes(home):
    loaded = load(home, content("dmd"))
    values = flat(loaded)
    student, fake = "roles.student.optimizer", "roles.fake_score.optimizer"
    assert {key: values[key] for key in DMD} == DMD
    assert values["model.path"] == str(home / "model") and values["roles.fake_score.path"] == str(home / "other")
    assert values["roles.student.path"] is None and values["output_dir"] == str(home / "runs")
    assert values[f"{student}.min_lr_ratio"] == 0.25 and values[f"{fake}.min_lr_ratio"] == 0
    assert [entry.caption for entry in entries(loaded.config.data)] == ["a kite", "a bird", "a fish"]
    notices = "\n".join(loaded.warnings)
    for text in (
        "c + s (c - u)",
        "the captions alone are read",
        "own negative prompt",
        "guidance_scale = 6.0",
        "no warm-up",
    ):
        assert text in notices
    assert "0.9^4" in "\n".join(loaded.report) and loaded.source("train.steps").endswith(
        "run.yaml: training.loop.max_train_steps"
    )


DMD = {
    "method.name": "dmd",
    "method.backward_simulation": True,
    "method.reuse_rollout": True,
    "method.student_interval": 4,
    "method.teacher_guidance": 3.5,
    "method.teacher_guidance_form": "std",
    "method.timesteps": [1000.0, 700.0, 400.0],
    "method.warp_denoising_step": True,
    "method.flow_shift": 4.0,
    "method.score_shift": 4.0,
    "method.score_min": 0.02,
    "method.score_max": 0.999,
    "roles.fake_score.optimizer.learning_rate": 4e-6,
    "roles.fake_score.optimizer.betas": [0.0, 0.99],
    "roles.fake_score.optimizer.weight_decay": 0.02,
    "roles.fake_score.optimizer.clip_norm": 0.5,
    "roles.fake_score.gradient_checkpointing": True,
    "roles.student.optimizer.learning_rate": 5e-6,
    "roles.student.optimizer.betas": [0.1, 0.99],
    "roles.student.optimizer.schedule": "cosine_with_min_lr",
    "roles.student.optimizer.warmup_updates": 2,
    "roles.fake_score.optimizer.warmup_updates": 0,
    "roles.student.ema_decay": pytest.approx(0.9**4),
    "roles.student.attention": "native",
    "roles.student.dtype": "bfloat16",
    "roles.teacher.dtype": "bfloat16",
    "roles.teacher.gradient_checkpointing": False,
    "train.workers": 4,
    "train.sequence_parallel": 2,
    "train.micro_batch": 3,
    "train.global_batch": 12,
    "train.steps": 40,
    "train.checkpoint_every": 10,
    "train.checkpoints_keep": 1_000_000,
    "data.caption_dropout": 0.1,
    "data.frames": 9,
    "data.height": 48,
    "data.width": 64,
    "seed": 11,
    "name": "three-steps",
    "track.experiment": "students",
    "evaluate.every": 20,
    "evaluate.frames": 9,
    "evaluate.teacher_shift": 8.0,
    "evaluate.prompts.prompt_2": "an owl",
}


def test_a_self_forcing_run_becomes(home):
    loaded = load(home, content("self_forcing"))
    values = flat(loaded)
    assert {key: values[key] for key in SELF_FORCING} == SELF_FORCING
    assert values["roles.student.path"] == str(home / "start.safetensors")
    assert [part.repeats for part in loaded.config.data.parts] == [1, 1]
    alone = content("self_forcing")
    for key in ("chunk_size", "student_sample_type", "same_step_across_blocks"):
        del alone["method"][key]
    values = flat(load(home, alone))
    assert (values["method.num_frame_per_block"], values["method.rollout"]) == (3, "sde")
    assert values["method.same_step_across_blocks"] is False and values["method.score_shift"] == 3.0


SELF_FORCING = {
    "method.name": "self_forcing",
    "method.num_frame_per_block": 3,
    "method.rollout": "ode",
    "method.context_noise": 10.0,
    "method.same_step_across_blocks": True,
    "method.last_step_only": False,
    "method.flow_shift": 5.0,
    "method.window": 6,
    "method.sink": 3,
    "method.score_min": 0.001,
    "data.frames": 33,
    "name": "causal",
    "roles.student.ema_decay": None,
}

EFFECTS = [
    ("method.rollout_mode", "sim", {"method.backward_simulation": True}),
    ("method.generator_update_interval", 0, {"method.student_interval": 1, "roles.student.ema_decay": 0.9}),
    ("method.warp_denoising_step", False, {"method.warp_denoising_step": False}),
    ("models.student.attention_backend", "FLASH_ATTN", {"roles.student.attention": "flash"}),
    ("training.data.num_latent_t", 4, {"data.frames": 13}),
    ("training.optimizer.lr_scheduler", "polynomial", {"roles.student.optimizer.min_lr_ratio": 0.0}),
    ("training.checkpoint.training_state_checkpointing_steps", 0, {"train.checkpoint_every": 40}),
    ("training.model.enable_torch_compile", True, {"roles.student.compile": True, "roles.teacher.compile": False}),
    ("training.loop.gradient_accumulation_steps", 3, {"train.global_batch": 18}),
    ("training.distributed.sp_size", 1, {"train.global_batch": 24, "train.sequence_parallel": 1}),
    ("training.tracker.run_name", None, {"name": "first"}),
    ("pipeline.vae_tiling", True, {"model.vae_tiling": True}),
    ("pipeline.vae_tiling", False, {"model.vae_tiling": False}),
    ("callbacks.ema", {}, {"roles.student.ema_decay": pytest.approx(0.9999**4)}),
    ("callbacks.grad_clip", {}, {"roles.student.optimizer.clip_norm": 0.0}),
]


@pytest.mark.parametrize(("key", "value", "becomes"), EFFECTS)
def test_a_value_has_its_effect(home, key, value, becomes):
    values = flat(load(home, changed("dmd", key, value)))
    assert {name: values[name] for name in becomes} == becomes


def test_a_polynomial_schedule_has_its_power(home):
    tree = changed("dmd", "training.optimizer.lr_scheduler", "polynomial")
    tree["training"]["optimizer"]["lr_power"] = 2.0
    assert flat(load(home, tree))["roles.student.optimizer.power"] == 2.0


REFUSALS = [
    ("method._target_", "fastvideo.train.methods.distribution_matching.tdm.TDMMethod", "only .*DMD2Method and"),
    ("method._target_", ["a"], "expected text"),
    ("models.student._target_", "fastvideo.train.models.longcat.LongCatModel", "only Wan is imported"),
    ("models.student._target_", {}, "expected text"),
    ("models.critic._target_", "fastvideo.train.models.wan.WanCausalModel", "this role sees whole clips"),
    ("models.student.trainable", False, "student and critic are trained"),
    ("models.student.attention_backend", "VIDEO_SPARSE_ATTN", "sparse attention is not imported"),
    ("models.student.enable_gradient_checkpointing_type", "block_skip", "only full is imported"),
    ("method.rollout_mode", "none", "use simulate or data_latent"),
    ("method.dmd_denoising_steps", [], "expected a list of timesteps"),
    ("method.fake_score_betas", [0.9], "expected two numbers"),
    ("method.cfg_uncond.text", "drop", "guidance is against the negative prompt"),
    ("training.distributed.tp_size", 2, "tensors are not split here; remove it, or use 1"),
    ("training.data.data_path", "nowhere", "no such file in"),
    ("training.data.data_path", "model/vae", "holds no parquet file"),
    ("training.data.preprocessed_data_type", "i2v", "text to video is imported; remove it, or use t2v"),
    ("training.optimizer.lr_num_cycles", 3, "a schedule has no cycles here"),
    ("training.checkpoint.resume_from_checkpoint", "runs/x/checkpoint-5", "FastVideo's checkpoints are not read"),
    ("training.vsa.sparsity", 0.8, "sparse attention is not imported"),
    ("training.model.moba_config", {"a": 1}, "sparse attention is not imported"),
    ("training.dit_precision", "fp8", "use fp32 or bf16"),
    ("callbacks.validation.dataset_file", "missing.json", "no such file in"),
    ("callbacks.ema._target_", "my.callbacks.EMA", "another class than FastVideo's own ema"),
    ("training.loop.max_train_step", 3, "unknown key of FastVideo; did you mean 'training.loop.max_train_steps'"),
    ("models.student.init_from", None, "is missing; give a configuration of DMD2Method"),
    ("training.loop.max_train_steps", None, "is missing; add it, or give train.steps=..."),
    ("training.data.num_width", None, "is missing; add it, or give data.width=..."),
    ("method.fake_score_learning_rate", None, "is missing; add it, or give roles.fake_score.optimizer.learning_rate="),
]


def test_a_missing_number_may_be_given_beside_the_file(home):
    assert flat(load(home, changed("dmd", "training.loop.max_train_steps", None), "train.steps=7"))["train.steps"] == 7


def test_accumulation_is_refused_by_its_own_key(home):
    with pytest.raises(ConfigError, match="gradient_accumulation_steps = 0: expected a whole number of 1 or more"):
        load(home, changed("dmd", "training.loop.gradient_accumulation_steps", 0))


@pytest.mark.parametrize(("key", "value", "message"), REFUSALS)
def test_a_value_is_refused_by_name(home, key, value, message):
    with pytest.raises(ConfigError, match=rf"run\.yaml: {re.escape(key)}.*{message}"):
        load(home, changed("dmd", key, value))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("method.rollout_mode", "data_latent", "Self-Forcing starts from its own rollout"),
        ("method.enable_gradient_in_rollout", False, "a rollout without gradient trains nothing"),
        ("method.start_gradient_frame", 3, "every chunk has a gradient here; use 0"),
        ("models.student._target_", "fastvideo.train.models.wan.WanModel", "Self-Forcing needs a causal student"),
    ],
)
def test_a_value_of_self_forcing_is_refused_by_name(home, key, value, message):
    with pytest.raises(ConfigError, match=rf"{re.escape(key)} = .*{message}"):
        load(home, changed("self_forcing", key, value))


def test_contradictions_are_named(home):
    tree = changed("dmd", "training.data.num_frames", 77)
    del tree["training"]["distributed"]["sp_size"]
    tree["callbacks"]["validation"]["sampling_timesteps"] = [1000, 500]
    notices = "\n".join(load(home, tree).warnings)
    assert "3 latent frames are 9 frames, and num_frames is 77: latents count" in notices
    assert "FastVideo's page says 1, and its loader takes num_gpus" in notices
    assert "sampling_timesteps = [1000, 500]: no effect: the student is sampled with its own steps" in notices


def test_a_student_that_begins_from_data_reads_the_latents(home):
    """Each folder is one dataset, as often as it counts, and the captions' 256 files are no limit."""
    (home / "more").mkdir()
    shutil.copy(home / "clips/worker_1/data_chunk_0.parquet", home / "more")
    tree = changed("dmd", "method.rollout_mode", "data_latent")
    tree["training"]["data"]["data_path"] = {"clips": 1, "more": 3}
    loaded = load(home, tree, "data.negative_prompt=blurry")
    assert flat(loaded)["method.backward_simulation"] is False
    parts = loaded.config.data.parts
    assert [(part.kind, part.place, part.repeats) for part in parts] == [
        ("latents", home / "clips", 0),
        ("latents", home / "more", 2),
    ]
    assert "text_embeddings: true" in "\n".join(loaded.warnings)
    tree["training"]["data"]["data_path"] = "model/vae"
    with pytest.raises(
        ConfigError, match="holds no parquet file; give the folder that FastVideo's preprocessing wrote"
    ):
        load(home, tree)


def test_clips_take_the_place_of_latents_and_overrides_win(home):
    (home / "videos").mkdir()
    tree = changed("dmd", "method.rollout_mode", "data_latent")
    loaded = load(home, tree, "data.datasets=[{videos: videos}]", "train.workers=8", "evaluate.prompts={one: a cat}")
    values = flat(loaded)
    assert values["method.backward_simulation"] is False and loaded.config.data.parts[0].kind == "videos"
    assert (values["train.workers"], values["train.global_batch"]) == (8, 24)
    assert loaded.config.evaluate.prompts == {"one": "a cat"} and loaded.source("train.workers") == "command line"


def test_the_verb_import_writes_a_configuration_of_ours(home, capsys):
    shutil.copy(FILES / "dmd.yaml", home / "run.yaml")
    assert main(["import", "fastvideo", "run.yaml", "-o", "ours.yaml"]) == 0
    again = load_run(home / "ours.yaml", (), environment={})
    assert again.config == load_run(home / "run.yaml", (), environment={}).config
    assert "method.dmd_denoising_steps = [1000, 700, 400] -> method.timesteps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("tool", "name", "out", "message"),
    [
        ("fastvideo", "run.yaml", "run.yaml", "run.yaml: this file exists, and is kept; give another name"),
        ("fastvideo", "run.yaml", "out.json", "out.json: the file to write ends in .yaml"),
        ("fastvideo", "ours.yaml", "out.yaml", "ours.yaml: no file of fastvideo, which is YAML with models and"),
        (
            "fastvideo",
            "c.json",
            "out.yaml",
            "c.json: no file of fastvideo, .*; ray-distill import simpletuner reads it",
        ),
        ("simpletuner", "run.yaml", "out.yaml", "run.yaml: no file of simpletuner, which ends in .json; .* fastvideo"),
        ("fastvideo", "none.yaml", "out.yaml", "none.yaml: no such configuration file"),
    ],
)
def test_import_overwrites_no_file_and_reads_those_of_its_tool_alone(home, capsys, tool, name, out, message):
    shutil.copy(FILES / "dmd.yaml", home / "run.yaml")
    (home / "ours.yaml").write_text((ROOT / "configs/quickstart.yaml").read_text())
    (home / "c.json").write_text("{}")
    files = {path: path.read_bytes() for path in home.glob("*.*")}
    assert main(["import", tool, name, "-o", out]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert {path: path.read_bytes() for path in home.glob("*.*")} == files


def test_the_document_has_every_key():
    page = (ROOT / "docs" / "fastvideo.md").read_text()
    for section, table in SECTIONS.items():
        for name, key in table.items():
            assert f"| `{section}.{name}` | {key.here} |" in page, f"{section}.{name}"
