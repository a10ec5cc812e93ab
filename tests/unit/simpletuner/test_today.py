"""SimpleTuner's files as they are today, and DMD's of August 2025: each key has its effect, is told, or is refused."""

import json
from pathlib import Path

import pytest

from ray_distill.config import ConfigError
from ray_distill.simpletuner import datatable, idle
from ray_distill.simpletuner.dataset import FIELDS
from ray_distill.simpletuner.keys import KEYS
from ray_distill.simpletuner.outcome import File, look_up
from ray_distill.simpletuner.values import Refused
from tests.tiny_wan import tiny_wan
from tests.unit.simpletuner.examples import MODEL, home, load, seed

STUDENT, FAKE = "roles.student.optimizer", "roles.fake_score.optimizer"
OTHER = "Wan-AI/Wan2.1-T2V-14B-Diffusers"

# A key of today, what stands beside it, and what it becomes; None takes a key of the DMD seed away.
TODAY = {
    "strict_epoch_limit": (False, {}, {"train.steps": 4000}),
    "ignore_final_epochs": (True, {}, {"train.steps": 4000}),
    "num_processes": (4, {}, {"train.workers": 4, "train.global_batch": 4}),
    "checkpointing_steps": (50, {"checkpoint_step_interval": None}, {"train.checkpoint_every": 50}),
    "validation_steps": (30, {"validation_step_interval": None}, {"evaluate.every": 30}),
    "model_flavour": (
        "t2v-480p-14b-2.1",
        {"pretrained_model_name_or_path": None, "pretrained_t5_model_name_or_path": None},
        {"model.path": "{home}/" + OTHER, "publish.base_model": OTHER},
    ),
    "revision": ("main", {}, {"model.path": "{home}/" + MODEL}),
    "pretrained_vae_model_name_or_path": (MODEL, {}, {"model.path": "{home}/" + MODEL}),
    "pretrained_transformer_model_name_or_path": (
        OTHER, {}, {"roles.teacher.path": "{home}/" + OTHER, "roles.student.path": "{home}/" + OTHER},
    ),
    "peft_lora_target_modules": (["to_q", "to_v"], {}, {"roles.student.lora.targets": ["to_q", "to_v"]}),
    "base_model_default_dtype": ("bf16", {}, {"roles.student.dtype": "bfloat16"}),
    "optimizer_config": ("weight_decay=0.1,eps=1e-6", {}, {f"{STUDENT}.weight_decay": 0.1, f"{STUDENT}.eps": 1e-6}),
    "adam_beta1": (0.8, {}, {f"{STUDENT}.betas": [0.8, 0.999]}),
    "adam_beta2": (0.98, {"optimizer_beta2": 0.97}, {f"{STUDENT}.betas": [0.9, 0.97]}),
    "adam_weight_decay": (0.2, {}, {f"{STUDENT}.weight_decay": 0.2, f"{FAKE}.weight_decay": 0.01}),
    "weight_decay": ("0.3", {}, {f"{STUDENT}.weight_decay": 0.3}),
    "adam_epsilon": (1e-7, {}, {f"{STUDENT}.eps": 1e-7}),
    "lr_scale": (True, {"train_batch_size": 4}, {f"{STUDENT}.learning_rate": 8e-5}),
    "lr_scale_sqrt": (True, {"lr_scale": True, "train_batch_size": 4}, {f"{STUDENT}.learning_rate": 4e-5}),
    "lr_power": (2, {"lr_scheduler": "polynomial"}, {f"{STUDENT}.power": 2.0}),
    "framerate": (25, {}, {"data.fps": 25.0, "data.resample": False}),
    "tokenizer_max_length": (226, {}, {"model.max_sequence_length": 226}),
    "validation_disable": (
        True, {}, {"evaluate.every": None, "evaluate.baseline": False, "evaluate.enabled": False},
    ),
    "validation_on_startup": (True, {"disable_benchmark": True}, {"evaluate.baseline": True}),
    "user_prompt_library": ("mine.json", {}, {"evaluate.prompts.cat": "a cat", "evaluate.prompts.kite": "a kite"}),
    "model_card_private": (False, {}, {"publish.private": False}),
    "vae_cache_ondemand": (True, {}, {"data.stream": True}),
    "data_backend_sampling": ("auto-weighting", {}, {"data.datasets": [{"repeats": 0.0}]}),
    "caption_strategy": ("filename", {}, {"data.datasets": [{"captions": "filename"}]}),
    "instance_prompt": ("a cow", {"only_instance_prompt": True}, {"data.datasets": [{"caption": "a cow"}]}),
    "only_instance_prompt": (False, {}, {"data.datasets": [{"caption": None}]}),
    "prepend_instance_prompt": (False, {}, {"data.datasets": [{"caption": None}]}),
    "cache_dir_vae": ("/cache/vae", {}, {"data.cache_dir": "/cache/vae"}),
    "maximum_image_size": (512, {}, {"data.resolution": 480}),
    "target_downsample_size": (512, {}, {"data.resolution": 480}),
    "max_upscale_threshold": (None, {}, {"data.resolution": 480}),
    "parquet_caption_column": ("text", {}, {"data.resolution": 480}),
    "parquet_filename_column": ("file", {}, {"data.resolution": 480}),
    "checkpoints_total_limit": (0, {}, {"train.checkpoints_keep": 1000000}),
    "validation_resolution": ("0.25", {}, {"data.width": 496, "data.height": 496}),
    "max_train_steps": ("40", {"num_train_epochs": "0"}, {"train.steps": 40}),
    "max_grad_norm": ("0", {}, {f"{STUDENT}.clip_value": 0.0, f"{STUDENT}.clip_norm": 0.0}),
    "gradient_checkpointing": ("False", {}, {"roles.student.gradient_checkpointing": False}),
    "use_ema": ("no", {}, {"roles.student.ema_decay": None}),
    "disable_benchmark": ("true", {}, {"evaluate.baseline": False}),
    "validation_prompt_library": ("False", {}, {"evaluate.pictures": 1}),
}  # fmt: skip

FIELDS_OF_TODAY = [
    ("cache_dir_vae", "/cache/vae", {"data.cache_dir": "/cache/vae"}),
    ("maximum_image_size", 480, {"data.resolution": 480}),
    ("target_downsample_size", 480, {"data.resolution": 480}),
    ("minimum_aspect_ratio", 0.5, {"data.minimum_aspect_ratio": 0.5}),
    ("maximum_aspect_ratio", "2", {"data.maximum_aspect_ratio": 2.0}),
    ("minimum_image_size", 0.25, {"data.minimum_image_size": 500}),
    ("crop_style", "center", {"data.crop": False}),
    ("crop_aspect_buckets", [1.0], {"data.crop": False}),
    ("prepend_instance_prompt", False, {"data.datasets": [{"caption": None}]}),
    ("only_instance_prompt", "false", {"data.datasets": [{"caption": None}]}),
    ("video", {"num_frames": 75, "min_frames": 75, "bucket_strategy": "aspect_ratio"}, {"data.frames": 73}),
    ("video", {"num_frames": 81, "frame_interval": 4, "bucket_strategy": "resolution_frames"}, {"data.stride": 1}),
    ("video", {"num_frames": 81, "frame_interval": 4, "_comment": "x"}, {"data.stride": 4}),
    ("video", {"num_frames": 81, "is_i2v": "False", "max_frames": None}, {"data.frames": 81}),
    ("crop", "False", {"data.crop": False, "data.resolution_type": "pixel_area"}),
    ("disabled", "False", {"data.frames": 121}),
    ("repeats", None, {"data.datasets": [{"repeats": 0.0}]}),
    ("conditioning_data", [], {"data.frames": 121}),
    ("probability", 0.5, {"data.datasets": [{"probability": None, "repeats": 0.0}]}),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = home(tmp_path_factory.mktemp("today"))
    (root / OTHER / "transformer").mkdir(parents=True)
    (root / "mine.json").write_text(json.dumps({"cat": "a cat"}))
    return root


@pytest.fixture(autouse=True)
def there(folder, monkeypatch):
    monkeypatch.chdir(folder)


def dmd(**changes):
    return seed("dmd_config.json") | changes


def assert_set(config, expected, folder):
    for key, value in expected.items():
        found = config.dump()
        for part in key.split("."):
            found = found[part]
        if key == "data.datasets":
            found = [{name: each[name] for name in mine} for each, mine in zip(found, value, strict=True)]
        assert found == (value.replace("{home}", str(folder)) if isinstance(value, str) else value), key


def dataset(folder, *entries, **changes):
    """A configuration with these datasets, by default the example's with changes."""
    own = seed("dmd_dataset.json") | {"id": "clips", "instance_data_dir": "clips"}
    (folder / "data.json").write_text(json.dumps([own | entry for entry in entries] or own | changes))
    return dmd(data_backend_config="data.json")


@pytest.mark.parametrize("key", TODAY)
def test_a_key_of_today_has_its_effect(key, folder):
    value, beside, expected = TODAY[key]
    assert_set(load(folder, dmd(**beside, **{key: value})).config, expected, folder)


@pytest.mark.parametrize(("key", "value", "expected"), FIELDS_OF_TODAY)
def test_a_key_of_a_dataset_of_today_has_its_effect(key, value, expected, folder):
    assert_set(load(folder, dataset(folder, **{key: value})).config, expected, folder)


def test_the_quick_starts_of_today_load(folder):
    """One key has another name than in the examples, and DCM's reuses the dataset file of Wan's own quick start."""
    wan = {
        "id": "films", "type": "local", "dataset_type": "video", "crop": False, "resolution": 480,
        "minimum_image_size": 480, "maximum_image_size": 480, "target_downsample_size": 480,
        "resolution_type": "pixel_area", "cache_dir_vae": "cache/vae/wan/films", "instance_data_dir": "clips",
        "disabled": False, "caption_strategy": "textfile", "metadata_backend": "discovery", "repeats": 0,
        "video": {"num_frames": 75, "min_frames": 75, "bucket_strategy": "aspect_ratio"},
    }  # fmt: skip
    text = {"id": "text", "type": "local", "dataset_type": "text_embeds", "default": True, "cache_dir": "cache/text",
            "disabled": False, "write_batch_size": 128}  # fmt: skip
    (folder / "wan.json").write_text(json.dumps([wan, text]))
    for name, frames, path in (("dmd", 121, "config/wan/multidatabackend.json"), ("dcm", 73, "wan.json")):
        given = {k: v for k, v in seed(f"{name}_config.json").items() if k != "ignore_final_epochs"}
        loaded = load(folder, given | {"strict_epoch_limit": False, "data_backend_config": path})
        assert loaded.config.data.frames == frames and loaded.config.train.steps == given["max_train_steps"]
        assert not [line for line in loaded.warnings if line.startswith(("strict_epoch", "dataset.m", "dataset.t"))]
    assert loaded.config.data.cache_dir == folder / "cache/vae/wan/films"
    assert loaded.config.data.minimum_image_size == 480
    assert any("dataset = text -> accepted: dataset_type = text_embeds: passed over" in line for line in loaded.report)


def test_dmds_quick_start_of_august_2025_loads(folder):
    given = {k: v for k, v in dmd(checkpointing_steps=200).items() if k != "checkpoint_step_interval"}
    section = {
        "dmd_denoising_steps": "1000,757,522", "generator_update_interval": 5, "simulate_generator_forward": False,
        "fake_score_lr": 1e-5, "fake_score_lr_scheduler": "cosine_with_min_lr", "min_lr_ratio": 0.5,
    }  # fmt: skip
    loaded = load(folder, given | {"distillation_config": section})
    config, fake = loaded.config, loaded.config.role("fake_score").optimizer
    assert (fake.schedule, fake.min_lr_ratio, config.train.checkpoint_every) == ("cosine_with_min_lr", 0.5, 200)
    assert config.method.backward_simulation is False and config.method.student_interval == 5
    brave = {"simulate_generator_forward": True, "fake_score_use_ema": True, "adversarial_weight": 0.1, "shift": 7.0}
    loaded = load(folder, given | {"distillation_config": brave})
    assert loaded.config.method.backward_simulation is True and loaded.config.method.score_shift == 7
    told = "\n".join(loaded.warnings)
    assert "fake_score_use_ema = true: no effect" in told and "adversarial_weight = 0.1: no effect" in told
    gan = load(folder, given | {"distillation_config": brave}, "method.name=dmd_gan").config
    assert gan.method.name == "dmd_gan" and gan.method.gan_weight == 0.1
    with pytest.raises(ConfigError, match=r"shift = 7.0 is another name of timestep_shift, which is 5; remove one"):
        load(folder, given | {"distillation_config": {"shift": 7.0, "timestep_shift": 5}})
    constant = load(folder, given | {"distillation_config": {"min_lr_ratio": 0.5}})
    assert any("min_lr_ratio = 0.5: no effect: fake_score_lr_scheduler does not fall" in w for w in constant.warnings)


def names(groups):
    return [name.replace("*", "x") for each in groups.values() for name in each.split()]


def test_keys_without_an_effect_are_told_once_with_the_reason(folder):
    keys = [key for key in names(idle.IDLE) if key not in idle.ANYWAY]
    warnings = load(folder, dmd(**dict.fromkeys(keys, 7), **dict.fromkeys(idle.ANYWAY, "other"))).warnings
    for why, group in idle.IDLE.items():
        (line,) = [line for line in warnings if line.endswith(f": no effect: {why}")]
        assert all(f"{name.replace('*', 'x')} = " in line for name in group.split())
    usual = load(folder, dmd()).warnings
    quiet = load(folder, dmd(**dict.fromkeys(keys, False), **idle.ANYWAY)).warnings
    assert quiet == usual == load(folder, dmd(**dict.fromkeys(keys, "none"))).warnings


def test_keys_that_would_change_the_training_are_refused_unless_off(folder):
    file = File(Path("x"), {}, {}, "dmd")
    for key in [*names(idle.REFUSED), *idle.USUAL]:
        with pytest.raises(Refused, match="; remove it"):
            look_up(KEYS, key).rule("on", file)
    off = dict.fromkeys(names(idle.REFUSED), False) | {key: usual for key, (usual, _) in idle.USUAL.items()}
    assert load(folder, dmd(**off)).warnings == load(folder, dmd()).warnings
    with pytest.raises(ConfigError, match=r"crepa_enabled = True: distillation has no such term; remove it"):
        load(folder, dmd(crepa_enabled=True))


def test_a_datasets_keys_are_told_or_refused_alike(folder):
    keys = names(datatable.IDLE)
    warnings = load(folder, dataset(folder, **dict.fromkeys(keys, 7))).warnings
    for why, group in datatable.IDLE.items():
        (line,) = [line for line in warnings if line.endswith(f": no effect: {why}")]
        assert all(f"dataset.{name.replace('*', 'x')} = " in line for name in group.split())
    quiet = load(folder, dataset(folder, **dict.fromkeys([*keys, *names(datatable.REFUSED)], False)))
    assert quiet.warnings == load(folder, dataset(folder)).warnings
    for key in names(datatable.REFUSED):
        with pytest.raises(Refused, match="; remove it"):
            look_up(FIELDS, key).rule("on", {}, File(Path("x"), {}, {}, "dmd"))
    load(folder, dataset(folder, start_epoch=1, start_step=0, end_step=None))
    with pytest.raises(ConfigError, match=r"dataset 0: start_step = 300: all datasets are mixed from the first step"):
        load(folder, dataset(folder, start_step=300))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "huggingface", "dataset_name": "a/b"}, "type = 'huggingface': known: local. Fetch the videos"),
        ({"type": "aws", "aws_secret_access_key": "s3cret"}, "type = 'aws': known: local. Fetch the videos"),
        ({"dataset_type": "conditioning"}, "dataset_type = 'conditioning': videos, and prompts"),
        ({"video": {"num_frames": 81, "min_frames": 82}}, "min_frames: files with num_frames = 81 frames are accepted"),
        ({"video": {"num_frames": 81, "max_frames": 80}}, "max_frames: no file has num_frames = 81 then"),
        (
            {"video": {"is_i2v": True}},
            "T2V-1.3B-Diffusers begins from text; use false, an i2v flavour, Wan 2.2 5B or LTX-2",
        ),
        ({"video": {"num_frame": 81}}, "known: num_frames, frame_interval"),
        ({"num_frames": None, "video": {"bucket_strategy": "resolution_frames"}}, "clips have one length here"),
        ({"prepend_instance_prompt": True}, "captions are taken as they are; write the prompt into them"),
        ({"only_instance_prompt": True}, "instance_prompt is the caption of all videos, and is not set"),
        ({"only_instance_prompt": True, "instance_prompt": None}, "instance_prompt is the caption of all videos, and"),
        ({"caption_strategy": "instanceprompt"}, "'instanceprompt': instance_prompt is the caption of all videos, and"),
        ({"crop": True, "crop_aspect": "closest"}, "crop_aspect = 'closest': a crop keeps the picture's aspect"),
        ({"resolution": 1.0}, "an edge of 1 pixels is too short; use 16 or more, or resolution_type=area"),
        ({"repeats": -1}, "repeats = -1: expected 0 or more"),
        ({"conditioning_data": ["poses"]}, "text alone conditions the model here; remove it"),
        ({"disabled": "perhaps"}, "disabled = 'perhaps': expected true or false"),
        ({"disable": True}, "no dataset is left: each is disabled, or a cache"),
        ({"instance_data_root": "x"}, "instance_data_root: unknown key; did you mean 'instance_data_dir'?"),
        ({"disable_vae_cache": True}, "disable_vae_cache: unknown key; did you mean 'vae_cache_disable'?"),
    ],
)
def test_a_dataset_of_today_that_is_refused(changes, message, folder):
    with pytest.raises(ConfigError) as error:
        load(folder, dataset(folder, **changes))
    assert message in str(error.value) and "data.json" in str(error.value) and "s3cret" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpointing_steps": 7}, "checkpoint_step_interval = 200 is its name today, with another value"),
        ({"save_steps": 7}, "save_steps: unknown key; did you mean 'checkpoint_step_interval'?"),
        ({"lr": 7}, "lr: unknown key; did you mean 'learning_rate'?"),
        ({"qqqq": 7}, "qqqq: unknown key; docs/simpletuner.md lists the known keys"),
        ({"distillation_config": {"guidance_scale": 3}}, "unknown key; did you mean 'real_score_guidance_scale'?"),
        ({"model_flavour": "i2v-14b-2.2-high"}, "one of two experts, which are distilled together here: method dmd_ph"),
        ({"model_flavour": "flf2v-14b-2.1"}, "it also takes the last frame of a clip"),
        ({"model_flavour": "vace-1.3b-2.1"}, "it takes control videos"),
        ({"model_flavour": "t2v-1b"}, "flavours that are distilled: t2v-480p-1.3b-2.1, t2v-480p-14b-2.1, i2v-14b-2.1"),
        ({"pretrained_vae_model_name_or_path": "x/y"}, "the VAE are those of pretrained_model_name_or_path"),
        ({"optimizer_config": "d_coef=1"}, "optimizer_config: 'd_coef': known: weight_decay=NUMBER, eps=NUMBER"),
        ({"init_lora": "a.safetensors"}, "adapters begin at zero here; roles.student.path names another student"),
        ({"resume_from_checkpoint": "checkpoint-9"}, "this tool's checkpoints are called step_00000100"),
        ({"learning_rate": float("nan")}, "learning_rate = nan: expected a number"),
        ({"flow_schedule_shift": "Infinity"}, "flow_schedule_shift = 'Infinity': expected a number"),
        ({"user_prompt_library": "odd.json"}, "'cat' has no text; expected a file of {name: prompt}"),
        ({"validation_epoch_interval": 1}, "checkpoints and validations are counted in steps"),
        ({"user_prompt_library": "abc"}, "user_prompt_library = 'abc': no such file in"),
        ({"validation_prompt": ["a", "b"]}, "validation_prompt = ['a', 'b']: expected text"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps = 0: expected a whole number of 1 or more"),
        ({"train_batch_size": -1}, "train_batch_size = -1: expected a whole number of 1 or more"),
        ({"validation_num_video_frames": 0}, "validation_num_video_frames = 0: expected a whole number of 1 or more"),
        (
            {"lr_warmup_steps": 10**6, "distillation_config": {"generator_update_interval": 0}},
            "student_interval = 0: use 1 (each step) or more ({file}: distillation_config.generator_update_interval)",
        ),
        (
            {"distillation_config": {"timestep_shift": 0}},
            "both must be above 0 ({file}: distillation_config.timestep_s",
        ),
        ({"adam_beta1": 2.5}, "roles.student.optimizer.betas.0 = 2.5 ({file}: adam_beta1): Input should be less"),
    ],
)
def test_a_key_of_today_that_is_refused(changes, message, folder):
    (folder / "odd.json").write_text(json.dumps({"cat": {"seed": 1}}))
    with pytest.raises(ConfigError) as error:
        load(folder, dmd(**changes))
    assert message.replace("{file}", str(folder / "config.json")) in str(error.value)


NO_MODEL = {"pretrained_model_name_or_path": None, "pretrained_t5_model_name_or_path": None}


@pytest.mark.parametrize("flavour", ["i2v-14b-2.1", "i2v-14b-2.1-720p"])
def test_a_flavour_that_begins_from_pictures(flavour, folder):
    name = f"Wan-AI/Wan2.1-I2V-14B-{'720P' if '720p' in flavour else '480P'}-Diffusers"
    (folder / name / "transformer").mkdir(parents=True, exist_ok=True)
    of_flavour = {"model_flavour": flavour, **NO_MODEL}
    told = dataset(folder, video={"num_frames": 81, "is_i2v": True})
    assert_set(load(folder, told | of_flavour).config, {"model.path": "{home}/" + name}, folder)
    shown = load(folder, told | of_flavour | {"validation_using_datasets": True, "validation_prompt": "a kite"})
    assert shown.config.evaluate.prompts == {}
    (line,) = [line for line in shown.warnings if "validation_prompt" in line]
    assert "no effect: a prompt has no picture, and validations show captions and first frames of the data" in line
    assert not any("validation_using_datasets" in line for line in shown.warnings)
    with pytest.raises(ConfigError, match=r"is_i2v: the model begins from each clip.s first frame; use true"):
        load(folder, dataset(folder, video={"num_frames": 81, "is_i2v": False}) | of_flavour)


@pytest.mark.parametrize(
    ("changes", "index", "fitting"),
    [
        ({}, {}, {False}),
        ({"in_channels": 36, "out_channels": 16, "image_dim": 16}, {}, {True}),
        ({}, {"expand_timesteps": True}, {True, False}),
    ],
)
def test_a_folder_of_any_name_begins_as_its_network_does(folder, changes, index, fitting):
    """Text alone, a picture, and Wan 2.2 5B, which takes both."""
    model = folder / "models/mine"
    tiny_wan(0).save_config(model / "transformer")
    path = model / "transformer/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"in_channels": 16, "out_channels": 16} | changes))
    (model / "model_index.json").write_text(json.dumps({"_class_name": "WanPipeline"} | index))
    of_model = NO_MODEL | {"pretrained_model_name_or_path": "models/mine"}
    for asked in (True, False):
        told = dataset(folder, video={"num_frames": 81, "is_i2v": asked}) | of_model
        if asked in fitting:
            assert load(folder, told).config.model.from_image is (asked if len(fitting) == 2 else None)
        else:
            with pytest.raises(ConfigError, match=rf"begins from .*; use {str(not asked).lower()}"):
                load(folder, told)


def test_the_root_of_the_batch_has_no_effect_without_the_batch(folder):
    (line,) = [line for line in load(folder, dmd(lr_scale_sqrt=True)).warnings if "lr_scale_sqrt" in line]
    assert "no effect without lr_scale" in line


def test_a_file_without_model_and_flavour_is_simpletuners_own(folder):
    loaded = load(folder, dmd(**NO_MODEL))
    assert_set(loaded.config, {"model.path": "{home}/" + MODEL, "publish.base_model": MODEL}, folder)
    assert load(folder, dmd(**NO_MODEL), f"model.path={folder / OTHER}").config.model.path == folder / OTHER
    with pytest.raises(ConfigError, match="flavours are Wan's; give pretrained_model_name_or_path"):
        load(folder, dmd(model_family="ltx", **NO_MODEL))


@pytest.mark.parametrize(
    ("name", "of_model"),
    [
        ("Wan-AI/Wan2.2-TI2V-5B-Diffusers", {"model_flavour": "ti2v-5b-2.2", **NO_MODEL}),
        (
            "Lightricks/LTX-2",
            NO_MODEL | {"model_family": "ltx2", "pretrained_model_name_or_path": "Lightricks/LTX-2"},
        ),
    ],
)
def test_a_model_that_allows_both_begins_as_its_datasets_ask(folder, name, of_model):
    (folder / name / "transformer").mkdir(parents=True, exist_ok=True)
    for asked in (True, False):
        told = dataset(folder, video={"num_frames": 81, "is_i2v": asked}) | of_model
        assert_set(load(folder, told).config, {"model.path": "{home}/" + name, "model.from_image": asked}, folder)


def test_wan_2_2_5b_has_one_beginning(folder):
    name = "Wan-AI/Wan2.2-TI2V-5B-Diffusers"
    (folder / name / "transformer").mkdir(parents=True, exist_ok=True)
    of_flavour = {"model_flavour": "ti2v-5b-2.2", **NO_MODEL}
    assert load(folder, dataset(folder, video={"num_frames": 81}) | of_flavour).config.model.from_image is None
    video = {"num_frames": 81, "is_i2v": True}
    two = dataset(folder, {"id": "a", "video": video}, {"id": "b", "video": video | {"is_i2v": False}}) | of_flavour
    with pytest.raises(ConfigError, match="is_i2v is true of 'a' and false of 'b', and a run has one beginning"):
        load(folder, two)


def test_null_is_a_key_that_is_not_set(folder):
    nulls = dict.fromkeys(("use_ema", "gradient_accumulation_steps", "lora_alpha", "flux_guidance_value", "no_such"))
    loaded = load(folder, dmd(**nulls))
    student = loaded.config.role("student")
    assert (student.ema_decay, student.lora.alpha, loaded.config.train.global_batch) == (None, None, 1)
    assert "lora_alpha = null -> accepted: not set: SimpleTuner treats it as an absent key" in loaded.report
    section = seed("dmd_config.json")["distillation_config"] | {"ts_schedule": None, "independent_first_frame": "false"}
    assert load(folder, dmd(distillation_config=section)).config.method.ts_schedule is True  # SimpleTuner's default
    with pytest.raises(ConfigError, match="no whole number of chunks of 3"):  # the text "false" is false
        load(folder, dmd(distillation_method="self_forcing", distillation_config=section))


def test_nothing_secret_is_shown(folder):
    hidden = {"publishing_config": {"provider": "s3", "secret_access_key": "s3cret"}, "hub": None}
    loaded = load(folder, dmd(**hidden))
    assert "s3cret" not in "\n".join([*loaded.report, *loaded.warnings])
    assert '"provider": "s3", "secret_access_key": "***"' in "\n".join(loaded.warnings)
    loaded = load(folder, dataset(folder, aws_secret_access_key="s3cret", hf_token=None))
    assert "s3cret" not in "\n".join([*loaded.report, *loaded.warnings])
    assert "tokenizer_max_length = 64" in "\n".join(load(folder, dmd(tokenizer_max_length=64)).report)
