import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel

from ray_distill.checkpoint.layout import folder_name
from ray_distill.config import ConfigError
from ray_distill.evaluate.report import write_report
from ray_distill.report.journal import read
from ray_distill.train import launch as launching
from ray_distill.train.driver import resume
from ray_distill.train.driver.check import check, check_resumable, warnings
from ray_distill.train.driver.fit import newest
from ray_distill.train.driver.publish import measured_again, report_so_far
from ray_distill.train.driver.resume import check_same_data
from ray_distill.train.launch import cache_of, launch, prepare_alone, without_outlets
from ray_distill.train.wire.resume_point import resumed_from
from tests.checkpoints import write
from tests.tiny_wan import tiny_wan
from tests.unit.toys import run_config

DIGITS = Path(__file__).parents[3] / "examples" / "digits_teacher"
PARTS = ("vae/config.json", "text_encoder/config.json", "tokenizer/tokenizer_config.json")


@pytest.fixture(autouse=True)
def no_ray(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("Ray was started")

    monkeypatch.setattr(ray, "init", refuse)


def model(folder, cls="WanTransformer3DModel", **other):
    """A pipeline's folder with a small transformer that fits the digits' VAE and text encoder."""
    shutil.copytree(DIGITS, folder, ignore=shutil.ignore_patterns("transformer", "metric"))
    small = {"in_channels": 16, "out_channels": 16, "text_dim": 64, "num_layers": 1}
    torch.manual_seed(0)
    described = dict(tiny_wan(0).config) | small | other | {"_use_default_values": []}
    WanTransformer3DModel.from_config(described).save_pretrained(folder / "transformer")
    described = json.loads((folder / "transformer" / "config.json").read_text())
    (folder / "transformer" / "config.json").write_text(json.dumps(described | {"_class_name": cls}))
    return folder


@pytest.fixture
def ready(tmp_path):
    """A folder in which the small run passes its check."""
    model(tmp_path / "model")
    (tmp_path / "manifest.jsonl").write_text('{"video": "a.mp4", "caption": "a seven moving left"}\n')
    return tmp_path


def test_a_clip_that_is_no_whole_number_of_chunks_is_refused(ready):
    own = {"model__path": str(DIGITS), "data__frames": 12}
    check(run_config(ready, method={"name": "self_forcing", "num_frame_per_block": 4}, **own))
    with pytest.raises(
        ValueError, match="num_frame_per_block = 3: the clip has 4 latent frames.* use 3 or 6 .data.frames = 9 or 18."
    ):
        check(run_config(ready, method={"name": "self_forcing", "num_frame_per_block": 3}, **own))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"data__frames": 80, "data__height": 32, "data__width": 32},
            "frames=80: the Wan VAE takes 4k.1 frames; use 77 or 81",
        ),
        ({"data__height": 40, "data__width": 32}, r"data.height = 40: the model takes multiples of 16; use 32 or 48"),
        ({"data__height": 32, "data__width": 8}, r"data.width = 8: the model takes multiples of 16; use 16 or 32"),
    ],
)
def test_a_size_that_the_model_does_not_take_is_refused(ready, change, message):
    shutil.rmtree(ready / "model/vae")
    AutoencoderKLWan(base_dim=4, num_res_blocks=1).save_pretrained(ready / "model/vae")
    index = json.loads((ready / "model/model_index.json").read_text()) | {"vae": ["diffusers", "AutoencoderKLWan"]}
    (ready / "model/model_index.json").write_text(json.dumps(index))
    check(run_config(ready, data__frames=9, data__height=48, data__width=32))
    with pytest.raises(ValueError, match=message):
        check(run_config(ready, **change))


@pytest.mark.parametrize("part", PARTS)
def test_a_folder_without_one_of_its_parts_is_refused(ready, part):
    check(run_config(ready))
    (ready / "model" / part).unlink()
    with pytest.raises(ConfigError, match=rf"^model.path = .*/model: this folder has no {part}"):
        check(run_config(ready))


def test_dropped_captions_are_warned_of_where_there_is_no_data(ready):
    assert warnings(run_config(ready)) == []
    (warning,) = warnings(run_config(ready, data__caption_dropout=0.1))
    assert "data.caption_dropout = 0.1: method 'dmd' learns from no data" in warning
    assert warnings(run_config(ready, data__caption_dropout=0.1, method__backward_simulation=False)) == []


def test_clips_that_the_teacher_makes_for_a_method_that_reads_none_are_warned_of(ready: Path) -> None:
    (ready / "prompts.txt").write_text("a red kite")
    datasets = [{"prompts": str(ready / "prompts.txt"), "teacher": {"steps": 2}}]
    made = {"data__manifest": None, "data__datasets": datasets}
    (warning,) = warnings(run_config(ready, **made))
    assert "data.datasets.0.teacher: method 'dmd' reads prompts alone" in warning
    assert warnings(run_config(ready, **made, method__backward_simulation=False)) == []


def test_prepared_pairs_must_be_of_the_methods_own_solver(ready):
    (ready / "prompts.txt").write_text("a cat\n")
    teacher = {"steps": 48, "shift": 8, "guidance": 7, "levels": [1000, 757, 522]}

    def config(**teacher):
        dataset = {"prompts": str(ready / "prompts.txt")} | ({"teacher": teacher} if teacher else {})
        own = {"data__manifest": None, "data__datasets": [dataset]}
        return run_config(ready, method__name="dmd_warm_start", method__pairs=True, **own)

    check(config(**teacher))
    for wrong in (teacher | {"steps": 20}, teacher | {"guidance": 6}, teacher | {"levels": [1000, 757]}):
        with pytest.raises(ConfigError, match=r"datasets.0.teacher: method.pairs = true needs .* \[1000.0, 757.0, 522"):
            check(config(**wrong))
    clips = run_config(ready, method__name="dmd_warm_start", method__pairs=True)
    with pytest.raises(ConfigError, match=r'datasets.0: method.pairs = true .* teacher: {"steps": 48, "shift": 8.0'):
        check(clips)


def test_prompts_alone_do_for_a_method_without_data(ready):
    (ready / "prompts.txt").write_text("a cat\n")
    prompts = {"data__manifest": None, "data__datasets": [{"prompts": str(ready / "prompts.txt")}]}
    check(run_config(ready, **prompts))
    with pytest.raises(ConfigError, match=r"'prompts' has prompts alone, and method 'dmd' learns from videos"):
        check(run_config(ready, method__backward_simulation=False, **prompts))
    taught = {"prompts": str(ready / "prompts.txt"), "teacher": {"steps": 4}}
    own = {"data__manifest": None, "method__backward_simulation": False}
    check(run_config(ready, data__datasets=[taught], **own))
    taught["teacher"] = {"path": str(ready / "none")}
    with pytest.raises(ValueError, match=r"data.datasets.0.teacher.path = .*/none: no transformer"):
        check(run_config(ready, data__datasets=[taught], **own))
    with pytest.raises(ConfigError, match=r"evaluate.metric = .* compares with real videos"):
        check(run_config(ready, evaluate={"metric": str(DIGITS / "metric")}, **prompts))


def stored(config, step=3):
    """A checkpoint of ``config``'s run."""
    state = {"step": step, "config": config.dump(), "roles": {"student": {"updates": 1}}}
    write(config.run_dir / folder_name(step), [], state, 0, 1, lambda part: [part])
    return newest(config)


def test_a_good_configuration_passes(ready):
    check(run_config(ready))
    check(run_config(ready, evaluate={"metric": str(DIGITS / "metric")}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data__manifest": "{}/none.jsonl"}, r"^data\.manifest = {}/none\.jsonl: no such file"),
        (
            {"model__path": "{}/none"},
            r"^model\.path = {}/none: no transformer/config\.json there\. Give a pipeline",
        ),
        (
            {"model__path": "{}/flux"},
            r"^model\.path = {}/flux: .* is a FluxTransformer2DModel, but family 'wan' is a W",
        ),
        ({"roles__student__path": "{}/flux"}, r"^roles\.student\.path = {}/flux: its transformer is a Flux"),
        ({"roles__teacher": {"path": "{}/none"}}, r"^roles\.teacher\.path = {}/none: no transformer"),
        (
            {"model__attention": "flashh"},
            r"^model\.attention = 'flashh': diffusers has no such backend; it has .*flash, ",
        ),
        ({"track__webhook": "{}/none.json"}, r"^track\.webhook = {}/none\.json: no such file"),
        (
            {"evaluate": {"metric": "{}/none"}},
            r"^evaluate\.metric = {}/none: this folder has no config\.json; .*remove the key",
        ),
    ],
)
def test_what_cannot_work_is_said_before_ray_starts(ready, change, message):
    model(ready / "flux", "FluxTransformer2DModel")
    filled = json.loads(json.dumps(change).replace("{}", str(ready)))
    config = run_config(ready, **filled)
    for begin in (check, launch):
        with pytest.raises(ValueError, match=message.replace("{}", str(ready))):
            begin(config)
    assert not config.run_dir.exists()


def test_a_discriminator_is_checked_by_what_it_looks_at(ready):
    digits = Path(__file__).parents[3] / "examples" / "digits_teacher"
    own = {"model__path": str(digits), "roles__discriminator": {"optimizer": {"learning_rate": 1e-4}}}
    check(run_config(ready, method={"name": "dmd_gan"}, **own))
    teacher = {"roles__teacher__path": str(ready / "none")}
    with pytest.raises(ValueError, match=r"^roles\.teacher\.path = .*/none: no transformer"):
        check(run_config(ready, method={"name": "dmd_gan"}, **own, **teacher))


def test_a_fake_score_follows_a_student_of_its_own_architecture_only(ready):
    """Sharing weights, by the key that asks for it; without the key the two may differ."""
    model(ready / "other", num_layers=3)
    ida, differs = {"method__ida_decay": 0.97}, {"roles__fake_score__path": str(ready / "other")}
    check(run_config(ready, **ida))
    check(run_config(ready, **differs))
    message = r"^method\.ida_decay = 0\.97: fake_score follows .* two architectures: num_layers is 3 and 1\. Give both"
    with pytest.raises(ConfigError, match=message):
        check(run_config(ready, **ida, **differs))


def test_adapters_follow_nothing(ready):
    own = {"model__path": str(Path(__file__).parents[3] / "examples" / "digits_teacher"), "method__ida_decay": 0.97}
    with pytest.raises(ConfigError, match=r"adapters cannot be averaged; remove roles\.student\.lora or ida_decay"):
        check(run_config(ready, **own, roles__student__lora={"rank": 4}))


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"method__student_interval": 2}, "method.student_interval was 5 and is 2"),
        ({"method__timesteps": "1000,500"}, "method.timesteps was [1000.0, 757.0, 522.0] and is [1000.0, 500.0]"),
        ({"data__height": 32}, "data.height was 24 and is 32"),
        ({"train__global_batch": 16}, "train.global_batch was 8 and is 16"),
    ],
)
def test_another_runs_checkpoint_is_refused(ready, change, difference):
    before = run_config(ready)
    last = stored(before)
    config = run_config(ready, **change)
    for begin in (lambda: check(config), lambda: check_resumable(config, last), lambda: launch(config)):
        with pytest.raises(ConfigError) as error:
            begin()
        assert str(last.folder) in str(error.value) and f"another run: {difference}." in str(error.value)
        assert f"Choose another name, with train.init_from={last.folder}" in str(error.value)
        assert "remove" not in str(error.value)


def test_what_does_not_change_the_mathematics_may_change(ready):
    last = stored(run_config(ready))
    for change in ({"train__workers": 4}, {"train__micro_batch": 1}, {"train__steps": 900}, {"data__encode_batch": 8}):
        check_resumable(run_config(ready, **change), last)
    check(run_config(ready, train__steps=900))


def test_rules_by_which_files_give_other_clips_stay(ready):
    last = stored(run_config(ready))
    for key, value in (("fps", 8), ("crop", False), ("minimum_image_size", 8)):
        with pytest.raises(ConfigError, match=rf"belongs to another run: data\.{key} was .* and is {value}"):
            check_resumable(run_config(ready, **{f"data__{key}": value}), last)
    as_they_are = stored(run_config(ready, data__resample=False), 4)
    check_resumable(run_config(ready, data__resample=False, data__fps=8), as_they_are)  # the speed of samples alone
    (ready / "prompts.txt").write_text("a cat\n")
    prompts = {"data__manifest": None, "data__datasets": [{"prompts": str(ready / "prompts.txt")}]}
    check_resumable(run_config(ready, **prompts, data__fps=8), stored(run_config(ready, **prompts), 5))


def test_a_run_may_refuse_to_go_on_or_begin_from_anothers_checkpoint(ready):
    last = stored(run_config(ready))
    with pytest.raises(ConfigError, match=r"train\.resume_from = none: .*step_00000003\. Choose another name"):
        check(run_config(ready, train__resume_from="none"))
    other = run_config(ready, name="other", train__resume_from=str(last.folder))
    check(other)
    with pytest.raises(
        ConfigError, match=r"step_00000800: it is at step 800, and train.steps = 800 leaves nothing to train"
    ):
        check(
            run_config(ready, name="other", train__resume_from=str(stored(run_config(ready, name="done"), 800).folder))
        )
    begun = resumed_from(other.run_dir, str(other.train.resume_from))
    assert begun is not None and begun.folder == last.folder
    own = stored(other, 5)
    begun = resumed_from(other.run_dir, str(other.train.resume_from))
    assert begun is not None and begun.folder == own.folder  # its own comes first
    with pytest.raises(
        ConfigError, match=r"^train\.resume_from = \S*/none: unfinished or damaged: [^:]*: it is missing"
    ):
        check(run_config(ready, name="third", train__resume_from=str(ready / "none")))


def test_a_preparation_that_must_fail_starts_no_ray(ready):
    (ready / "manifest.jsonl").write_text("")
    with pytest.raises(ConfigError, match=r"^data\.manifest = .*: nothing in it"):
        prepare_alone(run_config(ready))
    (ready / "manifest.jsonl").write_text('{"video": "a.mp4", "caption": "a seven moving left"}\n')
    (ready / "file").write_text("")
    for change in (
        {"data__cache_dir": str(ready / "file")},
        {"data__height": 25},
        {"model__path": str(ready / "none")},
    ):
        with pytest.raises(ConfigError, match=f"^{next(iter(change)).replace('__', '[.]')} = "):
            prepare_alone(run_config(ready, **change))


def test_what_the_end_needs_is_imported_while_clips_are_prepared(ready, monkeypatch):
    done = []
    monkeypatch.setattr(launching, "prepare", lambda data, models, say, meanwhile: meanwhile() or "cache")
    assert cache_of(run_config(ready), lambda: done.append("import")) == "cache" and done == ["import"]


def test_no_checkpoint_is_said(ready):
    with pytest.raises(ConfigError, match="this run has no checkpoint yet; train first"):
        newest(run_config(ready))


def test_a_student_is_measured_and_exported_as_it_was_trained(ready, capsys):
    config = run_config(ready)
    last = stored(config)
    assert newest(run_config(ready, train__steps=900, data__cache_dir=str(ready / "other"))).folder == last.folder
    other = run_config(ready, method__timesteps="1000,500", roles__student__lora={"rank": 2})
    with pytest.raises(
        ConfigError, match=r"was trained otherwise: method.timesteps was .* and is .*roles.student.lora"
    ):
        newest(other)
    assert newest(other, as_trained=False).folder == last.folder
    assert "warning: " in capsys.readouterr().err


def test_other_data_that_is_known_is_refused_before_a_cluster_starts(ready, monkeypatch):
    config = run_config(ready)
    last = stored(config)
    last.state["data"] = "0123"
    for name, refused in (("0123", False), ("4567", True), (None, False)):  # None: nobody has prepared it yet
        found = None if name is None else SimpleNamespace(folder=Path(name))
        monkeypatch.setattr(resume, "recall", lambda *_, found=found: found)
        if refused:
            with pytest.raises(ConfigError, match=r"was trained on other data \(cache 0123, now 4567\)"):
                check_same_data(config, last)
        else:
            check_same_data(config, last)


@pytest.mark.parametrize(("step", "status"), [(None, "FAILED"), (3, "KILLED"), (800, "FINISHED")])
def test_a_refusal_leaves_a_run_as_it_was(ready, monkeypatch, step, status):
    config = run_config(ready, track__uri="")
    if step is not None:
        stored(config, step)

    def refuse():
        raise ConfigError("other data")

    monkeypatch.setattr(launching, "cluster", refuse)
    with pytest.raises(ConfigError, match="other data"):
        launch(config)
    end = read(config.run_dir)[-1]
    assert (end["event"], end["status"], end["error"]) == ("end", status, "ConfigError: other data")


def test_a_later_evaluation_keeps_no_older_number(ready):
    config = run_config(ready)
    last = stored(config)
    cache = SimpleNamespace(captions=lambda: ["a prompt"])
    before = {"steps": 3, "phases": {"train": 9.0}, "teacher_same_steps_guided": {"frechet": 325.0}, "missed": ["x"]}
    write_report(config.run_dir / "report.json", before)
    measured_again(config, cache, last, {"student": {"nfe": 3}, "missed": []})
    report = report_so_far(config.run_dir)
    assert report["phases"] == {"train": 9.0} and report["student"] == {"nfe": 3} and report["missed"] == []
    assert report["steps"] == 3 and "teacher_same_steps_guided" not in report
    assert report_so_far(config.run_dir, 3) == report and report_so_far(config.run_dir, 4) == {}


def test_a_trial_of_a_sweep_posts_and_publishes_nothing(ready):
    publish = {"hub_model_id": "a", "base_model": "b"}
    config = run_config(ready, publish=publish, track={"webhook": str(ready / "hook.json"), "experiment": "e"})
    quiet = without_outlets(config)
    assert quiet.publish is None and quiet.track.webhook is None and quiet.track.experiment == "e"
    assert config.publish is not None and config.track.webhook is not None
