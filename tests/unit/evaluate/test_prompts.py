"""The prompts of a configuration: three ways to write them, encoded once, and what a validation makes of them."""

import json
from pathlib import Path

import pytest
import torch

from ray_distill.config import ConfigError, RunConfig, load_config
from ray_distill.config.load import config_of
from ray_distill.evaluate import generate, prompts
from ray_distill.evaluate.prompts import encode_prompts
from ray_distill.models.wan.text import wan_text
from tests.unit.toys import run_config, settings

DIGITS = Path(__file__).parents[3] / "examples" / "digits_teacher"
PROMPTS = {"one": "a seven moving left", "two": "a two moving up"}


@pytest.fixture
def config(tmp_path):
    own = {"model__path": str(DIGITS), "model__max_sequence_length": 8}
    return run_config(tmp_path, evaluate__prompts=PROMPTS, **own)


@pytest.fixture
def no_ray(monkeypatch):
    """Runs tasks at once; counts them."""
    ran = []

    class Task:
        def __init__(self, call):
            self.call = call

        def remote(self, *args):
            ran.append(args)
            return self.call(*args)

    calls = {"remote": lambda **_: Task, "get": lambda task, timeout: task, "put": lambda value: value}
    fake = type("ray", (), calls | {"nodes": list})
    monkeypatch.setattr(prompts, "ray", fake)
    monkeypatch.setattr(generate, "ray", fake)
    return ran


def test_prompts_may_be_written_down_or_lie_in_a_file(tmp_path):
    (tmp_path / "prompts.json").write_text(json.dumps(PROMPTS))
    (tmp_path / "prompts.txt").write_text("a seven\n\n a two \n")
    assert run_config(tmp_path, evaluate__prompts=str(tmp_path / "prompts.json")).evaluate.prompts == PROMPTS
    lines = run_config(tmp_path, evaluate__prompts=str(tmp_path / "prompts.txt")).evaluate.prompts
    assert lines == {"prompt_1": "a seven", "prompt_2": "a two"}
    assert run_config(tmp_path, evaluate__prompts=None).evaluate.prompts == {}
    for wrong, message in (("none.json", "no such file"), ("bad.json", "not valid JSON")):
        (tmp_path / "bad.json").write_text("{")
        with pytest.raises(ConfigError, match=message):
            config_of(RunConfig, settings(tmp_path, evaluate__prompts=str(tmp_path / wrong)))
    with pytest.raises(ConfigError, match=r"evaluate\.prompts\.one"):
        config_of(RunConfig, settings(tmp_path, evaluate__prompts={"one": 1}))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_files_of_prompts_are_read_as_those_of_the_data(tmp_path, encoding):
    def read(name, text):
        (tmp_path / name).write_bytes(text.encode(encoding))
        return run_config(tmp_path, evaluate__prompts=str(tmp_path / name)).evaluate.prompts

    both = {"prompt_1": "un café, rouge", "prompt_2": "two \u2028 parts"}
    first, second = both.values()
    assert read("p.txt", f"{first}\r\n\r\n {second}\n") == both
    assert read("p.csv", f'n,caption\n1,"{first}"\n2,{second}\n') == both
    assert read("p.jsonl", f'"{first}"\n{{"caption": "{second}"}}\n') == both
    assert read("p.json", json.dumps([first, second], indent=1, ensure_ascii=False)) == both
    assert read("n.json", json.dumps({"one": first}, ensure_ascii=False)) == {"one": first}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", "a kite\ncafé".encode("latin-1"), r"p.txt: p.txt, line 2: not UTF-8 \(byte 0xe9\)"),
        ("p.txt", "a kite".encode("utf-16-le"), "NUL characters"),
        ("p.json", b'{"one": "caf\xe9"}', r"p.json: not UTF-8"),
        ("p.json", b"[" * 100_000, "not valid JSON: nested too deep"),
        ("p.json", b'["a", " "]', "entry 2: no caption"),
        ("p.json", b'{"a": "b", "c": 5}', r"p\.json: 'c' is 5, and a prompt is text in quotes"),
        ("p.jsonl", b'{"caption": ["a", "b"]}', "'a' and others are one prompt"),
        ("p.csv", b"prompt\na\n", r"each line needs 'caption'; it has \['prompt'\]"),
    ],
)
def test_a_file_with_a_line_that_is_no_prompt_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        config_of(RunConfig, settings(tmp_path, evaluate__prompts=str(tmp_path / name)))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_configuration_may_have_a_mark(tmp_path, encoding):
    text = json.dumps(settings(tmp_path, publish={"hub_model_id": "a", "base_model": "é"}), ensure_ascii=False)
    (tmp_path / "run.yaml").write_bytes(text.encode(encoding))
    assert load_config(tmp_path / "run.yaml", environment={}).config.publish.base_model == "é"
    (tmp_path / "run.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"run.yaml: not UTF-8 \(byte 0xe9\); save it as UTF-8"):
        load_config(tmp_path / "run.yaml", environment={})


def test_they_are_encoded_once(config, no_ray):
    rows = encode_prompts(config)
    wanted = wan_text(DIGITS, 8).encode(list(PROMPTS.values()))

    def same(rows):
        return all(torch.equal(a["text"], b["text"]) for a, b in zip(rows, wanted, strict=True))

    assert same(rows)
    encode_prompts(config)
    assert len(no_ray) == 1
    (path,) = config.run_dir.glob("prompts-*.safetensors")
    for damaged in (b"", path.read_bytes()[:-1], path.read_bytes()[:-1] + b"\x7f"):
        path.write_bytes(damaged)
        assert same(encode_prompts(config))
    assert len(no_ray) == 4
    no_ray.clear()
    changed = RunConfig.model_validate(config.dump() | {"evaluate": {"prompts": {"one": "a one"}}})
    assert len(encode_prompts(changed)) == 1 and len(no_ray) == 1


def test_validations_show_all_of_them(config, no_ray, tmp_path):
    class Cache:
        folder, latent_shape = tmp_path, (16, 3, 6, 6)

        def prompt(self, which, fields):
            return {"text": torch.zeros(8, 64).numpy().tobytes()}

    made = generate.Generator(config, Cache())
    assert made.prompts == list(PROMPTS.values()) and len(made._rows) == 2


def test_shown_videos_may_have_another_size_than_the_data(tmp_path):
    assert run_config(tmp_path).shown_size == (9, 24, 24)
    assert run_config(tmp_path, evaluate={"frames": 17, "width": 32}).shown_size == (17, 24, 32)
    with pytest.raises(ValueError, match=r"evaluate\.frames: evaluate\.metric compares samples with the data's clips"):
        run_config(tmp_path, evaluate={"frames": 17, "metric": str(tmp_path)})


def test_which_student_is_validated(tmp_path):
    averaged = {"roles__student__ema_decay": 0.9}
    assert run_config(tmp_path).validation_students == (True,)
    assert run_config(tmp_path, **averaged).validation_students == (True,)
    assert run_config(tmp_path, evaluate__weights="trained", **averaged).validation_students == (False,)
    assert run_config(tmp_path, evaluate__weights="both", **averaged).validation_students == (True, False)


def test_no_push_leaves_for_neither_hub_nor_hook(tmp_path):
    (tmp_path / "run.yaml").write_text(
        json.dumps(
            settings(
                tmp_path,
                publish={"hub_model_id": "a", "base_model": "b"},
                track={"webhook": str(tmp_path / "hook.json")},
            )
        )
    )
    kept = load_config(tmp_path / "run.yaml", environment={}).config
    assert kept.publish is not None and kept.track.webhook == tmp_path / "hook.json"
    quiet = load_config(tmp_path / "run.yaml", ["publish=null", "track.webhook=null"], environment={}).config
    assert quiet.publish is None and quiet.track.webhook is None
