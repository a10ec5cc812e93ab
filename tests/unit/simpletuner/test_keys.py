"""Every key has an effect on a configuration, a note that says why it has none, or a refusal that names it."""

import json
import re

import pytest

from ray_distill.config import ConfigError
from ray_distill.config.keys import flatten
from ray_distill.simpletuner.dataset import FIELDS
from ray_distill.simpletuner.datatable import FIELDS as DATATABLE
from ray_distill.simpletuner.idle import idle_keys
from ray_distill.simpletuner.keys import KEYS
from ray_distill.simpletuner.method import TABLES
from ray_distill.simpletuner.older import DMD_OF_2025
from tests.unit.simpletuner.examples import home, load, seed
from tests.unit.simpletuner.test_today import FIELDS_OF_TODAY, TODAY

FAKE, STUDENT = "roles.fake_score.optimizer", "roles.student.optimizer"
MODEL = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
CLIPS = {"id": "clips", "videos": "{home}/clips", "repeats": 0.0}

# What a key of the DMD seed, set to a value, becomes.
EFFECTS = [
    ("model_family", "wan", {"model.family": "wan"}),
    ("model_type", "lora", {"roles.student.lora.rank": 128, "roles.fake_score.lora.rank": 128}),
    ("lora_rank", 8, {"roles.student.lora.rank": 8, "roles.fake_score.lora.rank": 8}),
    ("lora_alpha", 4, {"roles.student.lora.alpha": 4.0, "roles.fake_score.lora.alpha": 4.0}),
    ("lora_format", "comfyui", {"model.export_formats": ["comfyui_lora"]}),
    ("lora_format", "diffusers", {"model.export_formats": []}),
    ("mixed_precision", "bf16", {f"roles.{r}.dtype": "bfloat16" for r in ("student", "fake_score", "teacher")}),
    ("mixed_precision", "no", {f"roles.{r}.dtype": "float32" for r in ("student", "fake_score", "teacher")}),
    ("base_model_precision", "int8-quanto", {"roles.student.base_precision": "int8", "roles.teacher.zero": 0}),
    ("base_model_precision", "no_change", {"roles.student.base_precision": "dtype", "roles.teacher.zero": 3}),
    ("text_encoder_1_precision", "int8-quanto", {"model.text_encoder_precision": "int8"}),
    ("vae_enable_tiling", True, {"model.vae_tiling": True}),
    ("text_encoder_1_precision", "no_change", {"model.text_encoder_precision": "float32"}),
    ("caption_dropout_probability", 0.2, {"data.caption_dropout": 0.2}),
    ("attention_mechanism", "diffusers", {"model.attention": "native"}),
    ("attention_mechanism", "flash-attn-2", {"model.attention": "flash"}),
    ("gradient_checkpointing", False, {"roles.student.gradient_checkpointing": False}),
    ("gradient_checkpointing", True, {"roles.fake_score.gradient_checkpointing": True}),
    ("optimizer_beta1", 0.0, {f"{STUDENT}.betas": [0.0, 0.999]}),
    ("optimizer_beta2", 0.99, {f"{STUDENT}.betas": [0.9, 0.99]}),
    ("learning_rate", 3e-5, {f"{STUDENT}.learning_rate": 3e-5, f"{FAKE}.learning_rate": 1e-5}),
    ("learning_rate", "3e-5", {f"{STUDENT}.learning_rate": 3e-5}),
    ("lr_scheduler", "cosine_with_min_lr", {f"{STUDENT}.schedule": "cosine_with_min_lr"}),
    ("lr_scheduler", "cosine_with_min_lr", {f"{STUDENT}.min_lr_ratio": 0.02}),
    ("lr_scheduler", "polynomial", {f"{STUDENT}.schedule": "polynomial", f"{FAKE}.schedule": "constant"}),
    ("lr_scheduler", "cosine", {f"{STUDENT}.schedule": "cosine", f"{STUDENT}.min_lr_ratio": 0.0}),
    ("lr_end", 1e-5, {f"{STUDENT}.min_lr_ratio": 0.5}),
    ("lr_warmup_steps", 7, {f"{STUDENT}.warmup_updates": 7}),
    ("max_train_steps", 40, {"train.steps": 40}),
    ("train_batch_size", 3, {"train.micro_batch": 3, "train.global_batch": 3}),
    ("gradient_accumulation_steps", 4, {"train.micro_batch": 1, "train.global_batch": 4}),
    ("max_grad_norm", 0.5, {f"{STUDENT}.clip_value": 0.5, f"{STUDENT}.clip_norm": 0.0}),
    ("max_grad_norm", 0, {f"{STUDENT}.clip_value": 0.0, f"{STUDENT}.clip_norm": 0.0}),
    ("grad_clip_method", "norm", {f"{STUDENT}.clip_norm": 1.0, f"{STUDENT}.clip_value": 0.0}),
    ("use_ema", True, {"roles.student.ema_decay": 0.995, "roles.fake_score.ema_decay": None}),
    ("use_ema", True, {"roles.student.ema_warmup": True, "roles.fake_score.ema_warmup": False}),
    ("use_ema", False, {"roles.student.ema_decay": None, "roles.student.ema_interval": 1}),
    ("ema_decay", 0.9, {"roles.student.ema_decay": 0.9}),
    ("ema_update_interval", 3, {"roles.student.ema_interval": 3}),
    ("ema_validation", "none", {"evaluate.weights": "trained"}),
    ("ema_validation", "ema_only", {"evaluate.weights": "average"}),
    ("ema_validation", "comparison", {"evaluate.weights": "both"}),
    ("flow_schedule_shift", 8, {"evaluate.teacher_shift": 8.0}),
    ("seed", 7, {"seed": 7}),
    ("output_dir", "/runs", {"output_dir": "/runs"}),
    ("checkpoint_step_interval", 9, {"train.checkpoint_every": 9}),
    ("checkpoints_total_limit", 2, {"train.checkpoints_keep": 2}),
    ("resume_from_checkpoint", "latest", {"train.resume_from": "latest"}),
    ("resume_from_checkpoint", None, {"train.resume_from": "none"}),
    ("resume_from_checkpoint", "clips", {"train.resume_from": "{home}/clips"}),
    ("push_to_hub", False, {"publish": None}),
    ("push_to_hub", True, {"publish.hub_model_id": "wan-disney-DMD-3step", "publish.private": True}),
    ("push_checkpoints_to_hub", False, {"publish.per_checkpoint": False}),
    ("push_checkpoints_to_hub", True, {"publish.per_checkpoint": True}),
    ("hub_model_id", "me/x", {"publish.hub_model_id": "me/x", "publish.base_model": MODEL}),
    ("report_to", "none", {"track.uri": ""}),
    ("tracker_project_name", "x y", {"track.experiment": "x y"}),
    ("tracker_run_name", "run 7/b", {"name": "run-7-b"}),
    ("disable_benchmark", False, {"evaluate.baseline": True}),
    ("disable_benchmark", True, {"evaluate.baseline": False}),
    ("webhook_config", "config/wan/webhook.json", {"track.webhook": "{home}/config/wan/webhook.json"}),
    ("validation_step_interval", 6, {"evaluate.every": 6}),
    ("validation_step_interval", 0, {"evaluate.every": None}),
    ("validation_num_video_frames", 16, {"evaluate.frames": 17}),
    ("validation_num_video_frames", 81, {"evaluate.frames": 81}),
    ("validation_num_video_frames", 121, {"evaluate.frames": None, "data.frames": 121}),
    ("validation_resolution", "832x480", {"data.width": 832, "data.height": 480}),
    ("validation_resolution", 512, {"data.width": 512, "data.height": 512}),
    ("validation_seed", 3, {"evaluate.tune_seed": 3, "evaluate.seeds": [3]}),
    ("validation_prompt", "a cow", {"evaluate.prompts.validation": "a cow", "evaluate.prompts.kite": "a kite"}),
    ("validation_prompt", "", {"evaluate.pictures": 2}),
    ("validation_prompt_library", "config/wan/validation_prompts_dmd.json", {"evaluate.pictures": 3}),
    ("validation_prompt_library", True, {"evaluate.pictures": 7}),
    ("validation_prompt_library", False, {"evaluate.pictures": 1}),
    ("validation_negative_prompt", "grey", {"data.negative_prompt": "grey"}),
    ("pretrained_model_name_or_path", MODEL, {"model.path": "{home}/" + MODEL}),
    ("data_backend_config", "config/wan/multidatabackend.json", {"data.datasets": [CLIPS]}),
    ("resolution", 256, {"data.resolution": 480}),  # the dataset's own
    ("aspect_bucket_rounding", 1, {"data.aspect_bucket_rounding": 1}),
    ("disable_bucket_pruning", False, {"data.keep_small_buckets": False}),
    ("disable_bucket_pruning", True, {"data.keep_small_buckets": True}),
    ("vae_batch_size", 4, {"data.encode_batch": 4}),
]  # fmt: skip

METHOD = [
    ("dmd_denoising_steps", "1000,500", {"method.timesteps": [1000.0, 500.0]}),
    ("dmd_denoising_steps", [1000, 666, 333], {"method.timesteps": [1000.0, 666.0, 333.0]}),
    ("generator_update_interval", 10, {"method.student_interval": 10}),
    ("real_score_guidance_scale", 4, {"method.teacher_guidance": 4.0, "evaluate.teacher_guidance": 4.0}),
    ("real_score_guidance_form", "extra", {"method.teacher_guidance_form": "extra"}),
    ("fake_score_guidance_scale", 1.2, {"method.fake_score_guidance": 1.2}),
    ("fake_score_guidance_form", "extra", {"method.fake_score_guidance_form": "extra"}),
    ("fake_score_lr", 2e-5, {f"{FAKE}.learning_rate": 2e-5, f"{STUDENT}.learning_rate": 2e-5}),
    ("fake_score_weight_decay", 0.1, {f"{FAKE}.weight_decay": 0.1}),
    ("fake_score_betas", [0.0, 0.9], {f"{FAKE}.betas": [0.0, 0.9]}),
    ("fake_score_eps", 1e-6, {f"{FAKE}.eps": 1e-6}),
    ("fake_score_grad_clip", 5, {f"{FAKE}.clip_norm": 5.0, f"{FAKE}.clip_value": 0.0}),
    ("min_timestep_ratio", 0.1, {"method.score_min": 0.1}),
    ("max_timestep_ratio", 0.9, {"method.score_max": 0.9}),
    ("timestep_shift", 7.0, {"method.score_shift": 7.0}),
    ("min_score_timestep", 20, {"method.min_score_timestep": 20}),
    ("ts_schedule", False, {"method.ts_schedule": False}),
    ("ts_schedule_max", True, {"method.ts_schedule_max": True}),
    ("warp_denoising_step", True, {"method.warp_denoising_step": True, "method.flow_shift": 5.0}),
]

# The keys of a rollout by chunks, with a causal student.
CAUSAL = [
    ("num_frame_per_block", 6, {"method.num_frame_per_block": 6}),
    ("independent_first_frame", True, {"method.independent_first_frame": True}),
    ("same_step_across_blocks", True, {"method.same_step_across_blocks": True}),
    ("last_step_only", True, {"method.last_step_only": True}),
    ("num_training_frames", 28, {"method.num_training_frames": 28}),
    ("context_noise", 100, {"method.context_noise": 100.0}),
]

LCM = [
    ("euler_steps", 40, {"method.euler_steps": 40}),
    ("euler_timesteps", 40, {"method.euler_steps": 40}),
    ("guidance", 5, {"method.guidance": 5.0}),
    ("w_min", 2, {"method.guidance": [2.0, 2.0]}),
    ("w_max", 6, {"method.guidance": [6.0, 6.0]}),
    ("loss_type", "l2", {"method.loss": "l2"}),
    ("huber_c", 0.01, {"method.huber_c": 0.01}),
]

DCM = [
    ("mode", "semantic", {"method.name": "dcm_semantic"}),
    ("euler_steps", 50, {"method.euler_steps": 50}),
    ("euler_timesteps", 40, {"method.euler_steps": 40}),
    ("multiphase", 2, {"method.multiphase": 2}),
    ("multiphase", "0.9,0.8", {"method.multiphase": [0.9, 0.8]}),
    ("dcm_shift", 17, {"method.shift": 17.0}),
    ("distill_cfg", 4, {"method.distill_cfg": 4.0, "method.distill_cfg_form": "extra"}),
    ("distill_cfg_form", "std", {"method.distill_cfg_form": "std"}),
]

DATASET = [
    ("id", "films", {"data.datasets": [{"id": "films"}]}),
    ("instance_data_dir", "clips", {"data.datasets": [{"videos": "{home}/clips"}]}),
    ("cache_dir", "/cache/wan", {"data.cache_dir": "/cache/wan"}),
    ("num_frames", 81, {"data.frames": 81}),
    ("num_frames", 80, {"data.frames": 77}),
    ("frame_interval", 2, {"data.stride": 2}),
    ("video", {"num_frames": 49, "frame_interval": 3}, {"data.frames": 49, "data.stride": 3}),
    ("resolution", 320, {"data.resolution": 320, "data.resolution_type": "pixel_area"}),
    ("resolution_type", "area", {"data.resolution": round(1000 * 480**0.5)}),
    ("minimum_image_size", 64, {"data.minimum_image_size": 64}),
    ("crop", False, {"data.crop": False, "data.resolution_type": "pixel_area"}),
    ("crop", True, {"data.crop": True, "data.resolution_type": "fixed", "data.height": 480, "data.width": 480}),
    ("repeats", 2, {"data.datasets": [{"repeats": 2.0}]}),
    ("caption_strategy", "filename", {"data.datasets": [{"captions": "filename"}]}),
    ("caption_strategy", "textfile", {"data.datasets": [{"captions": "lines"}]}),
    ("disable_multiline_split", True, {"data.datasets": [{"captions": "sidecar"}]}),
]  # fmt: skip

# Accepted, and why nothing is set; warned of where a user may have meant something by it.
NOTES = [
    ("lora_type", "standard", "peft's LoRA", False),
    ("lycoris_config", "none.json", "no effect: it belongs to lora_type=lycoris", True),
    ("pretrained_t5_model_name_or_path", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "which are these", False),
    ("quantize_via", "cpu", "quantised on the CPU", False),
    ("quantize_via", "accelerator", "no effect: weights are quantised on the CPU", True),
    ("optimizer", "adamw_bf16", "AdamW with fp32 master weights", False),
    ("num_train_epochs", 0, "train.steps says how long", False),
    ("use_ema", False, "no average is kept", True),
    ("report_to", "wandb", "MLflow takes its place", False),
    ("lr_warmup_steps", 4000, "no shorter than the run, in which the student is updated 4000 times", False),
    ("validation_num_inference_steps", 3, "the student's own steps", False),
    ("validation_num_inference_steps", 8, "sampled with its own 3 steps", True),
    ("validation_using_datasets", True, "no effect: a student from text is shown text alone", True),
    ("validation_guidance", 1.0, "sampled without guidance", False),
    ("validation_num_video_frames", 16, "the model makes 13 or 17 frames: 17 in place of 16", True),
    ("resolution_type", "pixel_area", "for datasets that do not set it", False),
    ("minimum_image_size", 0, "for datasets that do not set it", False),
    ("compress_disk_cache", True, "always zstd", False),
    ("delete_problematic_images", True, "sources are never deleted", False),
    ("ignore_final_epochs", True, "train.steps alone says how long", False),
    ("prodigy_steps", 100, "no effect: it belongs to optimizer=prodigy", True),
]

REFUSED = [
    ("model_family", "flux", "families here: wan"),
    ("model_type", "lokr", "known: lora, full"),
    ("lora_format", "kohya", "known: diffusers, comfyui"),
    ("lora_type", "lycoris", "LyCORIS is not supported; use standard"),
    ("pretrained_model_name_or_path", "Wan-AI/none", "hf download Wan-AI/none; or name a folder: model.path=FOLDER"),
    ("pretrained_t5_model_name_or_path", "google/umt5", "those of pretrained_model_name_or_path; give that name"),
    ("base_model_precision", "fp8-quanto", "known: int8-quanto, int8-torchao"),
    ("mixed_precision", "fp16", "bf16, no, fp32"),
    ("attention_mechanism", "sageattention", "its kernels give no gradient"),
    ("optimizer", "prodigy", "known: adamw_bf16"),
    ("lr_scheduler", "sine", "known: constant, "),
    ("learning_rate", "fast", "expected a number"),
    ("max_train_steps", 0, "exactly one of max_train_steps and num_train_epochs = 0 must be above 0"),
    ("num_train_epochs", 2, "exactly one"),
    ("grad_clip_method", "agc", "known: value, norm"),
    ("resume_from_checkpoint", "checkpoint-9", "no such file in"),
    ("hub_model_id", None, "hub_model_id names the repository, and is not set"),
    ("validation_guidance", 5.0, "is sampled without guidance; set 1.0"),
    ("validation_resolution", "1280x700", "multiples of 16; the nearest is 1280x704"),
    ("validation_resolution", "a,b", "expected one size"),
    ("data_backend_config", "config/none.json", "no such file in"),
    ("validation_prompt_library", "config/none.json", "no such file in"),
    ("use_ema", "maybe", "expected true or false"),
    ("checkpoint_step_interval", 1.5, "expected a whole number"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return home(tmp_path_factory.mktemp("seed"))


@pytest.fixture(autouse=True)
def there(folder, monkeypatch):
    monkeypatch.chdir(folder)


def dmd(**changes):
    return seed("dmd_config.json") | changes


def distilled(**changes):
    given = dmd()
    return given | {"distillation_config": given["distillation_config"] | changes}


def seen(config, key):
    value = config.dump()
    for part in key.split("."):
        if value is None:
            return None
        value = value[part]
    return value


def assert_effect(config, expected, folder):
    for key, value in expected.items():
        found, wanted = seen(config, key), filled(value, folder)
        if key == "data.datasets":
            assert [{name: each[name] for name in part} for each, part in zip(found, wanted, strict=True)] == wanted
        else:
            assert found == wanted, key


def filled(value, folder):
    if isinstance(value, list):
        return [filled(each, folder) for each in value]
    if isinstance(value, dict):
        return {name: filled(each, folder) for name, each in value.items()}
    return value.replace("{home}", str(folder)) if isinstance(value, str) else value


@pytest.mark.parametrize(("key", "value", "expected"), EFFECTS)
def test_a_key_has_its_effect(key, value, expected, folder):
    assert_effect(load(folder, dmd(**{key: value})).config, expected, folder)


@pytest.mark.parametrize(("key", "value", "expected"), METHOD)
def test_a_key_of_dmd_has_its_effect(key, value, expected, folder):
    assert_effect(load(folder, distilled(**{key: value})).config, expected, folder)


@pytest.mark.parametrize(("key", "value", "expected"), CAUSAL)
def test_chunks_are_a_causal_students(key, value, expected, folder):
    given, own = distilled(**{key: value}), ("data.frames=93", "evaluate.frames=93")
    if key == "independent_first_frame":
        own = ()  # 121 frames are 31 latent frames, which fit so
    causal = load(folder, given | {"distillation_method": "self_forcing"}, *own)
    assert causal.config.method.name == "self_forcing"
    assert_effect(causal.config, expected, folder)
    assert load(folder, given, "method.name=self_forcing", *own).config == causal.config
    plain = load(folder, given)
    (warning,) = [text for text in plain.warnings if key in text]
    assert "takes the whole clip as one chunk" in warning


@pytest.mark.parametrize(("key", "value", "expected"), LCM)
def test_a_key_of_lcm_has_its_effect(key, value, expected, folder):
    given = seed("dcm_config.json") | {"distillation_method": "lcm", "distillation_config": {key: value}}
    config = load(folder, given, "data.frames=81").config
    assert_effect(config, expected, folder)
    assert config.method.sampling_steps == 8 and config.method.shift == 17  # validations' steps, the one shift


@pytest.mark.parametrize(("key", "value", "expected"), DCM)
def test_a_key_of_dcm_has_its_effect(key, value, expected, folder):
    given = seed("dcm_config.json") | {"distillation_config": {key: value}}
    config = load(folder, given).config
    assert_effect(config, expected, folder)
    assert config.method.sampling_steps == 8 and config.method.shift == config.evaluate.teacher_shift == 17


@pytest.mark.parametrize(
    ("key", "value", "note"),
    [
        ("adv_weight", 0.2, "no effect: it belongs to mode=fine"),
        ("semantic_steps", 5, "no effect: it belongs to mode=fine"),
        ("semantic_checkpoint", "clips", "no effect: it belongs to mode=fine"),
        ("discriminator_head_stride", 3, "no effect: it belongs to mode=fine"),
        ("discriminator_total_layers", 30, "takes its size from the model"),
        ("model_family", "wan", "beside it"),
    ],
)
def test_a_key_of_dcms_other_mode_says_so(key, value, note, folder):
    loaded = load(folder, seed("dcm_config.json") | {"distillation_config": {key: value}})
    assert any(f"distillation_config.{key} = {value}: " in text and note in text for text in loaded.warnings)


@pytest.mark.parametrize(("key", "value", "expected"), DATASET)
def test_a_key_of_a_dataset_has_its_effect(key, value, expected, folder, tmp_path):
    path = dataset(tmp_path, **{key: value})
    assert_effect(load(folder, dmd(data_backend_config=str(path))).config, expected, folder)


@pytest.mark.parametrize(("key", "value", "note", "warned"), NOTES)
def test_what_sets_nothing_says_why(key, value, note, warned, folder):
    loaded = load(folder, dmd(**{key: value}))
    (line,) = [line for line in loaded.report if line.startswith(f"{key} = ")]
    assert re.search(note, line)
    assert any(re.search(note, text) for text in loaded.warnings) is warned


@pytest.mark.parametrize(("key", "value", "message"), REFUSED)
def test_a_refusal_names_key_value_and_remedy(key, value, message, folder):
    with pytest.raises(ConfigError) as error:
        load(folder, dmd(**{key: value}))
    told = str(error.value)
    assert key in told and message in told and (value is None or str(value) in told)


def test_a_full_student_trains_all_weights_and_none_of_them_is_int8(folder):
    with pytest.raises(ConfigError, match=r"base_model_precision = 'int8-quanto': model_type=full trains all weights"):
        load(folder, dmd(model_type="full"))
    loaded = load(folder, dmd(model_type="full", base_model_precision="no_change"))
    assert all(loaded.config.role(role).lora is None for role in ("student", "fake_score"))
    assert any(text.startswith("lora_alpha = 128, lora_rank = 128: no effect") for text in loaded.warnings)


def test_a_full_student_has_no_adapter_to_name_for_comfyui(folder):
    full = dmd(model_type="full", base_model_precision="no_change", lora_format="comfyui")
    loaded = load(folder, full)
    assert loaded.config.model.export_formats == ()
    assert any("lora_format = comfyui: no effect: model_type is full" in text for text in loaded.warnings)
    assert load(folder, full, "model.export_lora_rank=4").config.model.export_formats == ("comfyui_lora",)


def test_frames_are_those_that_the_family_takes(folder, tmp_path):
    """80 frames: 77 of Wan's, 73 of LTX-Video's."""
    told = dmd(data_backend_config=str(dataset(tmp_path, num_frames=80)), validation_num_video_frames=80)
    for name, below in (("wan", 77), ("ltx", 73)):
        config = load(folder, told | {"model_family": name}).config
        assert (config.data.frames, config.evaluate.frames) == (below, 81)


def dataset(folder, **changes):
    path = folder / "dataset.json"
    path.write_text(json.dumps(seed("dmd_dataset.json") | {"instance_data_dir": "clips"} | changes))
    return path


def test_every_key_of_the_tables_is_tried_above():
    tried = {key for key, *_ in [*EFFECTS, *NOTES, *REFUSED]}
    elsewhere = {name for names in (*TODAY, *idle_keys()) for name in names.split()}  # test_simpletuner_today.py
    assert KEYS.keys() - tried - elsewhere == set()
    assert TABLES["dmd"].keys() - DMD_OF_2025.keys() == {key for key, *_ in [*METHOD, *CAUSAL]}
    assert TABLES["lcm"].keys() <= {key for key, *_ in LCM}
    of_fine = {
        "semantic_steps",
        "semantic_checkpoint",
        "adv_weight",
        "discriminator_head_stride",
        "discriminator_total_layers",
        "model_family",
    }
    assert TABLES["dcm_semantic"].keys() - of_fine <= {key for key, *_ in DCM}
    assert DATATABLE.keys() - {key for key, *_ in [*DATASET, *FIELDS_OF_TODAY]} <= {
        "type", "dataset_type", "disabled", "disable", "metadata_backend", "parquet", "instance_prompt", "crop_aspect",
        "probability",
    }  # fmt: skip


def test_every_key_of_the_seeds_is_known():
    for name in ("dmd_config.json", "dcm_config.json"):
        assert seed(name).keys() - KEYS.keys() == {"distillation_method", "distillation_config"}
    assert seed("dmd_config.json")["distillation_config"].keys() <= TABLES["dmd"].keys()
    assert seed("dcm_config.json")["distillation_config"].keys() <= TABLES["dcm_semantic"].keys()
    assert seed("dmd_dataset.json").keys() <= FIELDS.keys()


def test_defaults_are_simpletuners(folder):
    """Where the advanced block leaves a key out, SimpleTuner's own default decides: ts_schedule is true there."""
    method = load(folder, dmd(distillation_config={"dmd_denoising_steps": "1000"})).config.method
    assert method.ts_schedule is True and method.student_interval == 1 and method.teacher_guidance == 3
    plain = flatten(load(folder, dmd(distillation_config={})).config.dump())
    assert plain == flatten(load(folder, dmd()).config.dump())  # the example writes the defaults down
