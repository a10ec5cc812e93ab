"""SimpleTuner's files as they stand: its examples, their spellings, the files that they name, and what is refused."""

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml

from ray_distill.cli import main
from ray_distill.config import ConfigError
from ray_distill.importers import load_run
from ray_distill.simpletuner.keys import KEYS
from ray_distill.simpletuner.method import TABLES
from ray_distill.simpletuner.tables import tables
from tests.unit.simpletuner.examples import ADDRESS, MODEL, SEEDS, home, load, seed

ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(home(tmp_path))
    return tmp_path


def dmd(**changes):
    return seed("dmd_config.json") | changes


def test_the_dmd_seed_is_taken_as_it_stands(folder):
    shutil.copy(SEEDS / "dmd_config.json", folder / "config" / "wan" / "config.json")
    loaded = load_run(folder / "config" / "wan" / "config.json", environment={})
    config = loaded.config
    assert config.method.name == "dmd" and config.method.sampler().timesteps == (1000.0, 757.0, 522.0)
    assert (
        config.run_dir == folder / "output" / "wan-dmd" / "wan-DMD-3step" and config.track.experiment == "dmd-training"
    )
    assert config.model.path == folder / MODEL and config.data.parts[0].place == folder / "clips"
    assert (config.data.frames, config.data.resolution, config.data.crop) == (121, 480, False)
    assert config.shown_size == (121, 704, 1280)
    held = {role: config.role(role) for role in ("student", "fake_score", "teacher")}
    assert all(each.dtype == "bfloat16" and each.base_precision == "int8" for each in held.values())
    assert [held[r].lora.rank if held[r].lora else 0 for r in held] == [128, 128, 0]
    assert [held[r].gradient_checkpointing for r in held] == [True, True, False]
    student, fake = held["student"].optimizer, held["fake_score"].optimizer
    assert (student.learning_rate, student.clip_value, student.schedule) == (2e-5, 1.0, "cosine_with_min_lr")
    assert (fake.learning_rate, fake.clip_norm, fake.betas) == (1e-5, 1.0, (0.9, 0.999))
    assert config.publish.hub_model_id == "wan-disney-DMD-3step" and config.publish.per_checkpoint
    assert len(loaded.report) >= len(dmd()) + len(dmd()["distillation_config"]) - 1


def test_the_dcm_seed_is_taken_as_it_stands(folder):
    loaded = load(folder, seed("dcm_config.json"))
    config, optimizer = loaded.config, loaded.config.role("student").optimizer
    assert config.method.name == "dcm_semantic" and config.method.euler_steps == 100 and config.method.shift == 17
    assert config.train.steps == 400000 and optimizer.warmup_updates == 400000 and optimizer.clip_value == 0.01
    assert config.role("student").ema_decay is None and config.evaluate.every == 4
    assert config.shown_size == (17, 480, 832) and list(config.evaluate.prompts) == ["validation"]
    expected = ("use_ema", "ema_update_interval", "lycoris_config", "prodigy_steps", "validation_num_video_frames")
    assert all(any(key in text for text in loaded.warnings) for key in expected)
    assert len(loaded.warnings) == 5


def fine(**keys):
    return seed("dcm_config.json") | {"distillation_config": {"mode": "fine", "euler_steps": 100, **keys}}


def semantic_run(folder, name, method="dcm_semantic"):
    """A folder as an exported semantic run leaves it."""
    run = folder / "output" / "wan" / name
    (run / "export" / "transformer").mkdir(parents=True)
    (run / "export" / "recipe.json").write_text("{}")
    (run / "step_00000004").mkdir()
    (run / "step_00000004" / "state.json").write_text(json.dumps({"config": {"method": {"name": method}}}))
    return run


def test_the_fine_mode_starts_from_the_semantic_expert_that_is_named(folder):
    run = semantic_run(folder, "first")
    for named in (run, run / "export"):
        loaded = load(folder, fine(semantic_checkpoint=str(named), adv_weight=0.3, discriminator_head_stride=3))
        config = loaded.config
        assert config.method.name == "dcm_fine" and loaded.before is None
        assert config.source("student") == run / "export" and config.source("teacher") == folder / MODEL
        assert (config.method.adversarial_weight, config.method.discriminator_stride) == (0.3, 3)
        lora = config.role("student").lora
        assert lora.rank == 128 and lora.whole == ("condition_embedder", "scale_shift_table", "proj_out")
        assert config.role("discriminator").optimizer.betas == (0.0, 0.999)
    with pytest.raises(ConfigError, match=r"semantic_checkpoint = 'clips': it has no transformer/"):
        load(folder, fine(semantic_checkpoint="clips"))


def test_else_from_the_latest_semantic_run(folder):
    for number, (name, method) in enumerate((("a", "dcm_semantic"), ("b", "dcm_semantic"), ("c", "dmd"))):
        run = semantic_run(folder, name, method)
        os.utime(run / "export" / "recipe.json", (number, number))
    loaded = load(folder, fine())
    assert loaded.before is None and loaded.config.source("student") == folder / "output/wan/b/export"
    assert any("the latest semantic run under output_dir" in text for text in loaded.warnings)
    other = load(folder, fine(), "roles.student.path=elsewhere")
    assert other.config.source("student") == folder / "elsewhere" and other.before is None


def test_else_a_semantic_run_comes_first(folder, capsys):
    loaded = load(folder, fine(semantic_steps=30), "train.workers=2", "method.adversarial_weight=0.2")
    first, then = loaded.before.config, loaded.config
    assert (first.method.name, first.train.steps, first.train.workers) == ("dcm_semantic", 30, 2)
    assert (then.method.name, then.train.steps, then.train.workers) == ("dcm_fine", 400000, 2)
    assert then.method.adversarial_weight == 0.2 and then.publish is not None and first.publish is None
    assert then.source("student") == first.run_dir / "export" and first.run_dir.name == "wan-AdamW-DCM-semantic"
    assert any("there is no semantic run yet: one comes first" in text for text in loaded.warnings)
    short = load(folder, fine(), "train.steps=6", "name=x")
    assert short.before.config.train.steps == 6 and short.before.config.name == "x-semantic"
    (folder / "fine.json").write_text(json.dumps(fine()))
    assert main(["import", "simpletuner", "fine.json", "-o", "fine.yaml"]) == 0
    assert "ray-distill train fine.semantic.yaml\n  ray-distill train fine.yaml" in capsys.readouterr().out
    written = [load_run(folder / name, environment={}).config for name in ("fine.semantic.yaml", "fine.yaml")]
    assert [config.method.name for config in written] == ["dcm_semantic", "dcm_fine"]
    (folder / "fine.yaml").unlink()
    assert main(["import", "simpletuner", "fine.json", "-o", "fine.yaml"]) == 2
    assert "fine.semantic.yaml: this file exists" in capsys.readouterr().err and not (folder / "fine.yaml").exists()


def test_a_fine_run_that_could_not_be_published_is_refused_before_its_semantic_run(folder, capsys, monkeypatch):
    launches = []
    monkeypatch.setattr("ray_distill.train.launch.launch", lambda config, **more: launches.append(config))
    for name in ("check", "check_export"):  # these read a model
        monkeypatch.setattr(f"ray_distill.train.driver.check.{name}", lambda config: None)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    (folder / "fine.json").write_text(json.dumps(fine() | {"push_to_hub": True, "hub_model_id": "wan-fine"}))
    for verb in ("check", "train"):
        assert main([verb, "fine.json"]) == 2 and launches == []
        assert "publish.hub_model_id = wan-fine: the hub needs a token" in capsys.readouterr().err
    assert main(["check", "fine.json", "--no-push"]) == 0


@pytest.mark.parametrize("overrides", [[], ["output_dir=~/b"]])
def test_a_fine_run_starts_from_its_semantic_run_in_the_home_folder(folder, monkeypatch, overrides):
    monkeypatch.setenv("HOME", str(folder / "ann"))
    given = fine() | {"output_dir": "~/a"}
    loaded = load(folder, given, *overrides)
    assert loaded.config.source("student") == loaded.before.config.run_dir / "export"
    run = semantic_run(folder, "first")
    (folder / "ann").mkdir()
    shutil.move(run.parent, loaded.config.output_dir)
    assert load(folder, given, *overrides).config.source("student") == loaded.config.output_dir / "first/export"


def test_flat_nested_dashed_and_textual_spellings_are_one(folder):
    wanted = load(folder, dmd()).config
    section = dmd()["distillation_config"]
    assert load(folder, {f"--{key}": value for key, value in dmd().items()}).config == wanted
    assert load(folder, dmd(distillation_config={"dmd": section, "dcm": {"mode": "fine"}})).config == wanted
    assert load(folder, dmd(distillation_config=json.dumps(section))).config == wanted
    with pytest.raises(ConfigError, match="seed is there twice, with and without --"):
        load(folder, dmd() | {"--seed": 1})


def test_the_advanced_block(folder):
    block = json.loads("{" + (SEEDS / "dmd_advanced_block.txt").read_text() + "}")
    loaded = load(folder, dmd(**block))
    method = loaded.config.method
    assert method.timesteps == (1000.0, 666.0, 333.0) and method.student_interval == 4
    assert (method.fake_score_guidance, method.score_shift) == (1.2, 7.0)
    assert method.ts_schedule and method.teacher_guidance == 3.0  # SimpleTuner's defaults
    (warning,) = [text for text in loaded.warnings if "takes the whole clip as one chunk" in text]
    assert "num_training_frames = 28" in warning and "same_step_across_blocks = true" in warning


@pytest.mark.parametrize(
    ("change", "steps", "interval"),
    [({"dmd_denoising_steps": "1000,500"}, (1000.0, 500.0), 1), ({"generator_update_interval": 10}, None, 10)],
)
def test_the_remedies_of_the_trouble_table(folder, change, steps, interval):
    loaded = load(folder, dmd(distillation_config=dmd()["distillation_config"] | change))
    assert loaded.config.method.student_interval == interval
    assert loaded.config.method.timesteps == (steps or (1000.0, 757.0, 522.0))
    if steps:  # three validation steps were meant for three of the student's
        assert any("sampled with its own 2 steps" in text for text in loaded.warnings)


def test_overrides_and_environment_come_after(folder):
    path = folder / "config.json"
    path.write_text(json.dumps(dmd()))
    environment = {"RAY_DISTILL_TRAIN__STEPS": "7", "RAY_DISTILL_SEED": "5"}
    loaded = load_run(path, ["train.steps=9", "train.workers=4", "method.student_interval=2"], environment)
    assert (loaded.config.train.steps, loaded.config.seed, loaded.config.method.student_interval) == (9, 5, 2)
    assert loaded.config.train.global_batch == 4 * loaded.config.train.micro_batch  # the batch is a worker's
    assert loaded.source("train.steps") == "command line" and loaded.source("seed") == "$RAY_DISTILL_SEED"
    assert loaded.source("train.checkpoint_every") == f"{path}: checkpoint_step_interval"
    assert "learning_rate = 2e-05 -> roles.student.optimizer.learning_rate = 2e-05" in loaded.report
    assert "seed = 1000 -> seed = 1000 (set elsewhere)" in loaded.report


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lerning_rate": 1}, "lerning_rate: unknown key; did you mean 'learning_rate'?"),
        ({"distillation_method": "dmd2"}, "distillation_method = 'dmd2': known: dmd, "),
        (
            {"distillation_config": {"fake_score_lrr": 1}},
            "distillation_config.fake_score_lrr: unknown key; did you mean",
        ),
        ({"distillation_config": {"mode": "fine"}}, "distillation_config.mode: unknown key"),
        ({"distillation_config": 3}, "distillation_config = 3: expected a section"),
        ({"distillation_config": "{"}, "distillation_config = '{': not valid JSON"),
        (
            seed("dcm_config.json") | {"distillation_config": {"mode": "coarse"}},
            "distillation_config.mode = 'coarse': known: ",
        ),
        (
            seed("dcm_config.json") | {"distillation_config": {"dcm_shift": 5}},
            "flow_schedule_shift = 17 already is the shift",
        ),
    ],
)
def test_what_is_unknown_names_the_nearest(folder, change, message):
    with pytest.raises(ConfigError) as error:
        load(folder, dmd(**change))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"repeat": 1}, "dataset 0: repeat: unknown key; did you mean 'repeats'?"),
        ({"dataset_type": "image"}, "dataset 0: dataset_type = 'image': videos, and prompts"),
        ({"instance_data_dir": "none"}, "dataset 0: instance_data_dir = 'none': no such file in"),
        ({"instance_data_dir": None}, "dataset 0: instance_data_dir = None: "),
        ({"caption_strategy": "blip"}, "caption_strategy = 'blip': known: textfile"),
        ({"resolution_type": "pixel"}, "resolution_type=pixel_area"),
        ({"type": "aws"}, "type = 'aws': known: local"),
        ([3], "each dataset is a mapping"),
    ],
)
def test_a_dataset_that_cannot_be_taken(folder, content, message):
    own = seed("dmd_dataset.json") | {"instance_data_dir": "clips"}
    (folder / "data.json").write_text(json.dumps([own | content] if isinstance(content, dict) else content))
    with pytest.raises(ConfigError) as error:
        load(folder, dmd(data_backend_config="data.json"))
    assert message in str(error.value) and "data.json" in str(error.value)


def test_the_seeds_dataset_alone_asks_for_its_folder(folder):
    shutil.copy(SEEDS / "dmd_dataset.json", folder / "config" / "wan" / "multidatabackend.json")
    with pytest.raises(ConfigError, match=r"instance_data_dir: the folder with the videos is not set"):
        load(folder, dmd())
    loaded = load(folder, dmd(), "data.datasets=[{videos: clips}]", "data.frames=121")
    data = loaded.config.data
    assert data.resolution == 480 and data.resolution_type == "pixel_area"  # those beside it
    assert "resolution = 480 -> data.resolution_type = pixel_area, data.resolution = 480" in loaded.report


def test_datasets_are_mixed_and_others_are_passed_over(folder):
    manifest = folder / "clips.jsonl"
    manifest.write_text("")
    entries = [
        {"id": "a", "instance_data_dir": "clips", "num_frames": 81, "repeats": 1, "caption_strategy": "filename"},
        {
            "id": "b",
            "instance_data_dir": "clips.jsonl",
            "num_frames": 49,
            "crop": False,
            "metadata_backend": "discovery",
        },
        {"id": "c", "instance_data_dir": "gone", "disabled": True},
        {"id": "text", "dataset_type": "text_embeds", "cache_dir": "cache/text", "default": True},
        {"id": "d", "dataset_type": "prompts", "instance_data_dir": "clips.jsonl", "probability": 1, "type": "local"},
    ]
    for part in entries[:2]:
        part["probability"] = 2
        part.pop("repeats", None)
    (folder / "data.json").write_text(json.dumps(entries))
    data = load(folder, dmd(data_backend_config="data.json")).config.data
    assert [part.kind for part in data.parts] == ["videos", "manifest", "prompts"]
    assert [part.repeats for part in data.parts] == [1.0, 1.0, 0.0]  # drawn by probability x clips
    assert data.frames == 81 and [part.frames for part in data.parts] == [None, 49, None]
    assert data.parts[0].captions == "filename" and data.clips(data.parts[1]).crop is False


def test_other_ways_to_caption(folder):
    (folder / "rows.parquet").write_text("")
    told = {"caption_strategy": "parquet", "metadata_backend": "parquet"}
    columns = {"path": "rows.parquet", "filename_column": "file", "caption_column": "says"}
    square = {"crop": True, "crop_aspect": "preserve"}
    one = {"caption_strategy": "instanceprompt", "instance_prompt": "a cow"}
    for own, wanted in (
        ({"parquet": columns, **told}, {"manifest": folder / "rows.parquet", "caption_column": "says"}),
        ({"instance_data_dir": "clips", **one}, {"caption": "a cow"}),
        ({"instance_data_dir": "clips", **square}, {"videos": folder / "clips"}),
    ):
        (folder / "data.json").write_text(json.dumps(own | {"num_frames": 9}))
        part = load(folder, dmd(data_backend_config="data.json")).config.data.parts[0]
        assert {name: getattr(part, name) for name in wanted} == wanted


def test_files_are_looked_for_here_and_then_beside_the_configuration(folder, tmp_path_factory, monkeypatch):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    config = load(folder, dmd()).config
    assert config.track.webhook == folder / "config/wan/webhook.json" and config.model.path == folder / MODEL
    (elsewhere / "config" / "wan").mkdir(parents=True)
    shutil.copy(folder / "config/wan/webhook.json", elsewhere / "config/wan/webhook.json")
    assert load(folder, dmd()).config.track.webhook == elsewhere / "config/wan/webhook.json"


@pytest.mark.parametrize(
    ("key", "path", "way_out"),
    [
        ("data_backend_config", "config/wan/multidatabackend.json", ["data.manifest=clips.jsonl", "data.frames=9"]),
        ("validation_prompt_library", "config/wan/validation_prompts_dmd.json", ["evaluate.prompts={a: a cow}"]),
        ("webhook_config", "config/wan/webhook.json", ["publish=null", "track.webhook=null"]),  # --no-push
        ("pretrained_model_name_or_path", MODEL, ["model.path=other"]),
    ],
)
def test_a_missing_file_is_an_error_unless_it_is_not_needed(folder, key, path, way_out, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(folder / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "hub"))
    shutil.rmtree(folder / path) if (folder / path).is_dir() else (folder / path).unlink()
    with pytest.raises(ConfigError) as error:
        load(folder, dmd())
    assert f"{key} = '{path}': no such f" in str(error.value)
    load(folder, dmd(), *way_out)


def test_the_model_may_lie_in_the_hubs_cache(folder, monkeypatch):
    shutil.rmtree(folder / MODEL)
    snapshot = folder / "hub" / f"models--{MODEL.replace('/', '--')}" / "snapshots" / "abc"
    (snapshot / "transformer").mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "hub"))
    assert load(folder, dmd()).config.model.path.resolve() == snapshot.resolve()


def test_epochs_are_counted_by_the_data(folder):
    for number in range(7):
        (folder / "clips" / f"{number}.mp4").write_text("")
        if number:  # the first has no caption
            (folder / "clips" / f"{number}.txt").write_text("a cow")
    given = dmd(max_train_steps=0, num_train_epochs=3, train_batch_size=2)
    assert load(folder, given).config.train.steps == 3 * 3
    assert load(folder, given, "train.workers=2").config.train.steps == 3 * 2
    assert load(folder, given, "train.steps=5").config.train.steps == 5


def test_no_address_is_ever_shown(folder, capsys):
    loaded = load(folder, dmd())
    shown = [loaded.table(), *loaded.report, json.dumps(loaded.config.dump()), repr(loaded.config)]
    assert not any(ADDRESS in text for text in shown)
    for inline in (ADDRESS, {"callback_url": ADDRESS}):
        with pytest.raises(ConfigError, match=r"webhook_config = \*\*\*: the address is a secret") as error:
            load(folder, dmd(webhook_config=inline))
        assert ADDRESS not in str(error.value)


def test_import_writes_the_same_run_as_yaml(folder, capsys):
    (folder / "seed.json").write_text(json.dumps(dmd()))
    assert main(["import", "simpletuner", "seed.json", "-o", "out/run.yaml", "train.steps=50"]) == 0
    told = capsys.readouterr().out
    text = (folder / "out" / "run.yaml").read_text()
    assert "num_frame_per_block = 3 -> no effect" in told and "num_frame_per_block = 3 -> no effect" in text
    assert ADDRESS not in told + text
    written = load_run(folder / "out" / "run.yaml", environment={}).config
    assert written == load_run(folder / "seed.json", ["train.steps=50"], environment={}).config
    assert yaml.safe_load(text)["train"]["steps"] == 50
    assert main(["import", "simpletuner", "seed.json", "-o", "out/my run.yaml"]) == 0
    assert "ray-distill train 'out/my run.yaml'" in capsys.readouterr().out


def test_the_three_contradictions_end_in_a_message(folder, capsys):
    given = dmd(validation_num_video_frames=16, lr_warmup_steps=4000)
    (folder / "seed.json").write_text(json.dumps(given))
    assert main(["import", "simpletuner", "seed.json", "-o", "run.yaml", "--no-push"]) == 0
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert any("121 frames are 31 latent frames, no whole number of chunks of 3" in text for text in warnings)
    assert any("the model makes 13 or 17 frames: 17 in place of 16" in text for text in warnings)
    assert any(
        "warmup_updates = 4000: this run has 4000 updates of student, all of them warm-up" in w for w in warnings
    )
    config = load_run(folder / "run.yaml", environment={}).config
    assert config.shown_size[0] == 17 and config.publish is None and config.track.webhook is None


def test_a_causal_student_refuses_what_does_not_divide(folder):
    with pytest.raises(
        ConfigError, match=r"num_frame_per_block = 3: 121 frames are 31 latent frames, .*independent_fi"
    ):
        load(folder, dmd(distillation_method="self_forcing"))
    alone = dmd()["distillation_config"] | {"independent_first_frame": True}
    config = load(folder, dmd(distillation_method="self_forcing", distillation_config=alone)).config
    assert config.method.frames(31) == 19  # 1 + 6 chunks of 3 within num_training_frames = 21


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_file_that_is_no_configuration(folder, text):
    (folder / "broken.json").write_text(text)
    with pytest.raises(ConfigError, match=r"broken\.json: (not valid JSON|expected a mapping)"):
        load_run(folder / "broken.json", environment={})
    with pytest.raises(ConfigError, match=r"gone\.json: no such configuration file"):
        load_run(folder / "gone.json", environment={})


def test_every_key_of_the_contract_is_in_the_tables():
    contract = """model_family model_type lora_type lora_rank lora_alpha lycoris_config pretrained_model_name_or_path
        pretrained_t5_model_name_or_path base_model_precision quantize_via text_encoder_1_precision mixed_precision
        attention_mechanism gradient_checkpointing optimizer learning_rate lr_scheduler lr_warmup_steps max_train_steps
        num_train_epochs train_batch_size gradient_accumulation_steps max_grad_norm grad_clip_method use_ema
        ema_update_interval ema_validation flow_schedule_shift seed data_backend_config resolution resolution_type
        aspect_bucket_rounding minimum_image_size caption_dropout_probability compress_disk_cache
        delete_problematic_images disable_bucket_pruning vae_batch_size output_dir checkpoint_step_interval
        checkpoints_total_limit resume_from_checkpoint push_to_hub push_checkpoints_to_hub hub_model_id report_to
        tracker_project_name tracker_run_name disable_benchmark webhook_config validation_step_interval
        validation_num_inference_steps validation_guidance validation_num_video_frames validation_resolution
        validation_seed validation_prompt validation_negative_prompt validation_prompt_library ignore_final_epochs
        prodigy_steps"""
    assert set(contract.split()) <= KEYS.keys()
    distillation = """dmd_denoising_steps warp_denoising_step generator_update_interval real_score_guidance_scale
        fake_score_guidance_scale fake_score_lr fake_score_weight_decay fake_score_betas fake_score_eps
        fake_score_grad_clip min_timestep_ratio max_timestep_ratio timestep_shift min_score_timestep ts_schedule
        ts_schedule_max num_frame_per_block independent_first_frame same_step_across_blocks last_step_only
        num_training_frames context_noise"""
    assert set(distillation.split()) <= TABLES["dmd"].keys()


def test_the_documentation_shows_the_tables_of_the_code():
    page = (ROOT / "docs" / "simpletuner.md").read_text()
    assert page.partition("## Every key\n\n")[2].strip() == tables()  # python -m ray_distill.simpletuner.tables
