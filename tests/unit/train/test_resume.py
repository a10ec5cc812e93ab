"""What a run goes on with, and what a new one begins with: known before Ray starts."""

import json
import shutil

import pytest
import ray
import torch
from diffusers import WanTransformer3DModel
from pydantic import ValidationError

from ray_distill.checkpoint import Checkpoint
from ray_distill.checkpoint.layout import folder_name
from ray_distill.config import ConfigError
from ray_distill.data.encoders import Encoders
from ray_distill.models.hashing import weights_hash
from ray_distill.train.driver.begin import check_init
from ray_distill.train.driver.check import check_data
from ray_distill.train.driver.resume import averages, changes, check_teacher, kept_cache
from ray_distill.train.launch import cache_of
from ray_distill.train.worker.build import bases, frozen_sources
from tests.checkpoints import write
from tests.tiny_wan import tiny_wan
from tests.unit.data.caches import make
from tests.unit.toys import run_config

LORA = {"lora": {"rank": 2}, "optimizer": {"learning_rate": 1e-4}}


@pytest.fixture(autouse=True)
def no_ray(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("Ray was started")

    monkeypatch.setattr(ray, "init", refuse)


@pytest.fixture
def home(tmp_path):
    tiny_wan(0).save_pretrained(tmp_path / "model/transformer")
    return tmp_path


def stored(config, step=3, tensors=(), **state):
    """A checkpoint of ``config``'s run."""
    state = {"step": step, "config": config.dump(), "roles": {"student": {}, "fake_score": {}}} | state
    write(config.run_dir / folder_name(step), tensors, state, 0, 1, lambda part: [part])
    return Checkpoint(config.run_dir / folder_name(step))


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A run that was trained on a cache of four clips, all of which are listed."""
    monkeypatch.setattr(Encoders, "codec", "codec")
    monkeypatch.setattr(Encoders, "images", "")
    monkeypatch.setattr(Encoders, "encoder", "encoder")
    lines = [json.dumps({"video": f"{number}.mp4", "caption": "a seven"}) for number in range(4)]
    (tmp_path / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    for number in range(4):
        (tmp_path / f"{number}.mp4").write_bytes(b"film")
    config = run_config(tmp_path, data__cache_dir=str(tmp_path / "cache"))
    make(tmp_path / "cache", [[0, 1], [2, 3]])
    stored(config, data="key")
    return config, tmp_path, lines


def test_a_run_goes_on_with_its_cache_whatever_became_of_its_clips(trained, capsys):
    config, home, lines = trained
    same = home / "cache/key"
    assert cache_of(config).folder == same and "warning" not in capsys.readouterr().err
    (home / "0.mp4").write_bytes(b"")  # unreadable, if for a moment: nothing is opened
    (home / "1.mp4").unlink()
    assert cache_of(config).folder == same and changes(config, cache_of(config)) == []
    (home / "manifest.jsonl").write_text("\n".join(lines[1:]) + "\n")
    assert cache_of(config).folder == same
    assert "warning: 1 clip (0.mp4) is gone from the data's sources; the run goes on with" in capsys.readouterr().err
    (home / "manifest.jsonl").write_text(lines[3] + "\n" + json.dumps({"video": "9.mp4", "caption": "new"}) + "\n")
    gone, new = changes(config, cache_of(config))
    assert gone.startswith("3 clips (0.mp4, 1.mp4, 2.mp4) are gone") and new.startswith("1 new clips")
    cache = cache_of(config)
    cache.card["repeated"] = 1  # the new one has the content of another
    assert changes(config, cache) == [gone]
    for content in ("not JSON\n", "", None):
        (home / "manifest.jsonl").unlink() if content is None else (home / "manifest.jsonl").write_text(content)
        assert cache_of(config).folder == same
    assert "the data's sources cannot be listed" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no such file"):
        check_data(config)  # as for a new run


@pytest.mark.parametrize(
    "change",
    [{"data__frames": 5}, {"data__negative_prompt": "blur"}, {"data__manifest": "other.jsonl"}, {"data__stream": True}],
)
def test_other_data_is_not_hidden_by_a_cache(trained, change):
    config, home, _ = trained
    assert kept_cache(config) is not None
    assert kept_cache(run_config(home, data__cache_dir=str(home / "cache"), **change)) is None


def test_how_data_is_made_may_change(trained):
    _config, home, _ = trained
    own = {"data__cache_dir": str(home / "cache"), "data__encode_batch": 2, "data__encoders": 3}
    assert kept_cache(run_config(home, **own)) is not None
    shutil.copytree(home / "cache", home / "moved")
    assert kept_cache(run_config(home, data__cache_dir=str(home / "moved"))).folder == home / "moved/key"


def test_a_cache_that_is_gone_or_of_another_codec_is_made_again(trained, monkeypatch):
    config, home, _ = trained
    monkeypatch.setattr(Encoders, "codec", "another")
    assert kept_cache(config) is None
    monkeypatch.setattr(Encoders, "codec", "codec")
    assert kept_cache(run_config(home, name="new", data__cache_dir=str(home / "cache"))) is None
    (home / "cache/key/card.json").unlink()
    assert kept_cache(config) is None


def test_another_teacher_is_refused_unless_asked_for(home):
    shutil.copytree(home / "model", home / "teacher")
    own = {"roles__teacher__path": str(home / "teacher")}
    config = run_config(home, **own)
    assert frozen_sources(config) == {"teacher": weights_hash(home / "teacher")}
    last = stored(config, sources=frozen_sources(config))
    check_teacher(config, last)
    tiny_wan(5).save_pretrained(home / "teacher/transformer")
    message = rf"{last.folder} was trained .* the one in {home}/teacher: restore the old one, go on with"
    with pytest.raises(
        ConfigError, match=rf"{message} the new one \(train\.other_teacher=true\).*train\.init_from={last.folder}"
    ):
        check_teacher(config, last)
    check_teacher(run_config(home, **own, train__other_teacher=True), last)
    with pytest.raises(ConfigError, match="another teacher"):  # by another path
        tiny_wan(6).save_pretrained(home / "third/transformer")
        check_teacher(run_config(home, roles__teacher__path=str(home / "third")), last)
    shutil.rmtree(home / "teacher")
    shutil.copytree(home / "model", home / "renamed")
    check_teacher(run_config(home, roles__teacher__path=str(home / "renamed")), last)  # the same weights elsewhere
    check_teacher(config, stored(config, 4))  # of a version that kept no hashes


def test_an_average_that_is_added_or_dropped_is_said(home):
    plain = run_config(home)
    averaged = run_config(home, roles__student__ema_decay=0.9)
    assert averages(plain, stored(plain)) == [] and averages(averaged, stored(averaged, 4)) == []
    (line,) = averages(averaged, stored(plain, 5))
    assert line == "roles.student.ema_decay = 0.9 is new: its average begins with the weights of step 5"
    (line,) = averages(plain, stored(averaged, 6))
    assert "roles.student.ema_decay is gone" in line


def weights(*roles, network=None):
    return [(r, f"weights/{n}", p.detach()) for r in roles for n, p in (network or tiny_wan(1)).named_parameters()]


def test_a_new_run_begins_with_the_weights_of_another(home):
    begun = stored(run_config(home), tensors=weights("student", "fake_score"))
    own = {"name": "new", "seed": 7, "train__global_batch": 16, "train__init_from": str(begun.folder)}
    check_init(run_config(home, **own))
    lines = []
    heads = {"method": {"name": "dmd_gan"}, "roles__discriminator": {"optimizer": {"learning_rate": 1e-4}}}
    check_init(run_config(home, **own, **heads), lines.append)
    assert lines == [f"train.init_from: {begun.folder} has no discriminator, so this role begins as in any run"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"train__init_from": "{}/none"},
            r"/none: unfinished or damaged: .* missing; give the folder of a whole checkpoint$",
        ),
        ({"train__init_from": "{}/output/run"}, r"give one of its checkpoints, such as .*/output/run/step_00000003$"),
        ({"roles__student": LORA}, r"roles\.student\.lora was None and is \{.*: give the same lora, or export"),
        (
            {"roles__fake_score__path": "{}/deep"},
            r"its fake_score is another network than .*/deep: blocks\.2\..* missing",
        ),
        ({"roles__student__path": "{}/wide"}, r"its student is another network .*ffn.* is \(.*\) and should be"),
    ],
)
def test_weights_that_do_not_fit_are_refused(home, change, message):
    for name, key, value in (("deep", "num_layers", 3), ("wide", "ffn_dim", 64)):
        WanTransformer3DModel.from_config(dict(tiny_wan(0).config) | {key: value}).save_pretrained(
            home / name / "transformer"
        )
    begun = stored(run_config(home), tensors=weights("student", "fake_score"))
    own = {"name": "new", "train__init_from": str(begun.folder)}
    filled = json.loads(json.dumps(change).replace("{}", str(home)))
    with pytest.raises(ConfigError, match=rf"^train\.init_from = .*{message}"):
        check_init(run_config(home, **(own | filled)))


def test_adapters_begin_on_their_own_base_alone(home):
    config = run_config(home, roles__student=LORA)
    begun = stored(config, bases=bases(config), tensors=[("student", "weights/x", torch.zeros(1))])
    own = {"name": "new", "roles__student": LORA, "train__init_from": str(begun.folder)}
    begin = stored(run_config(home, name="other"), tensors=weights("fake_score"), roles={"fake_score": {}})
    with pytest.raises(ConfigError, match="this checkpoint has no student, but fake_score"):
        check_init(run_config(home, **(own | {"train__init_from": str(begin.folder)})))
    tiny_wan(5).save_pretrained(home / "model/transformer")
    with pytest.raises(ConfigError, match="its adapters of student were trained on other weights than"):
        check_init(run_config(home, **own))


def test_a_run_has_one_beginning(home):
    with pytest.raises(ValidationError, match=r"train\.init_from = /a begins a new run, and train\.resume_from = /b"):
        run_config(home, train__init_from="/a", train__resume_from="/b")
    run_config(home, train__init_from="/a", train__resume_from="none")


def test_a_method_that_samples_with_its_beginning_takes_an_export(home):
    begun = stored(run_config(home), tensors=weights("student"))
    adapters = {"path": str(home / "model"), "lora": {"rank": 2}, "optimizer": {"learning_rate": 1e-4}}
    fine = {
        "method": {"name": "dcm", "mode": "fine", "euler_steps": 50, "shift": 5.0},
        "roles": {"student": adapters, "discriminator": {"optimizer": {"learning_rate": 1e-4}}},
    }
    with pytest.raises(ConfigError, match=r"also samples with its student's first weights .* as roles\.student\.path"):
        check_init(run_config(home, name="new", train__init_from=str(begun.folder), **fine))
