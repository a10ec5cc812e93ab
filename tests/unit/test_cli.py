"""Words at the end of a failure: the user's mistake is a line, a file that the system refuses too, ours are raised."""

import json
from pathlib import Path

import pytest
from ray.exceptions import RayTaskError

from ray_distill import cli
from ray_distill.arguments import RUN_VERBS, parse
from ray_distill.cli import main
from ray_distill.errors import ConfigError, mistakes

ROOT = Path(__file__).parents[2]


@pytest.fixture
def fail(monkeypatch, capsys):
    """(exit code, stderr) of a verb that raises."""

    def fail(error):
        def verb(args):
            raise error

        monkeypatch.setitem(cli.VERBS, "check", verb)
        return cli.main(["check", "run.yaml"]), capsys.readouterr().err

    return fail


def test_the_users_mistake_is_a_line(fail):
    assert fail(ConfigError("name = '..': no")) == (2, "ray-distill check: name = '..': no\n")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PermissionError(13, "Permission denied", "/data/a.yaml"), "/data/a.yaml: Permission denied"),
        (OSError(28, "No space left on device", b"x", None, "y"), "b'x' -> y: No space left on device"),
        (OSError("the share has gone\naway"), "the share has gone away"),
        (TimeoutError(), "TimeoutError"),
        (
            RayTaskError("generate", "Traceback ...\n  many\n  lines", OSError(28, "No space left on device", "/out/x"))
            .as_instanceof_cause(),
            "/out/x: No space left on device",
        ),
    ],
)  # fmt: skip
def test_what_the_system_refuses_is_a_line_with_its_path(fail, error, line):
    assert fail(error) == (1, f"ray-distill check: {line}\n")


@pytest.mark.parametrize("error", [ValueError("shapes do not match"), KeyError("x"), json.JSONDecodeError("no", "", 0)])
def test_an_error_of_ours_is_not_the_configurations(fail, error):
    code, printed = fail(error)
    assert code == 1 and "Traceback" in printed and type(error).__name__ in printed


def test_only_a_plain_value_error_of_another_room_is_the_users():
    with pytest.raises(ConfigError, match=r"model\.path = x"), mistakes():
        raise ValueError("model.path = x: no such folder")
    with pytest.raises(json.JSONDecodeError), mistakes():
        json.loads("{")
    with pytest.raises(KeyError), mistakes():
        raise KeyError("x")


# Arguments


@pytest.mark.parametrize(
    "line",
    [
        "sample --prompt seven --seed 3 run.yaml a=1 b=2",
        "sample run.yaml --prompt seven a=1 --seed 3 b=2",
        "sample run.yaml a=1 b=2 --seed 3 --prompt seven",
    ],
)
def test_flags_stand_before_between_and_after_overrides(line):
    args = parse(line.split())
    assert (args.verb, args.config, args.overrides) == ("sample", Path("run.yaml"), ["a=1", "b=2"])
    assert (args.prompt, args.seed, args.out) == (["seven"], [3], None)


def test_no_push_is_two_overrides_and_they_come_last():
    assert parse(["train", "run.yaml", "--no-push", "a=1"]).overrides == ["a=1", "publish=null", "track.webhook=null"]
    assert parse(["train", "run.yaml"]).overrides == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train run.yaml --prompt seven", "train has no --prompt; see ray-distill train --help"),
        ("sample run.yaml --promp seven", "sample has no --promp; see"),
        ("tune sweep.yaml --no-push", "tune has no --no-push"),
        ("import simpletuner a.json", "the following arguments are required: -o/--output"),
        ("import toolbox a.json -o b.yaml", "invalid choice: 'toolbox'"),
        ("report run --limit -1", "argument --limit: '-1': give a number of MiB, 0 or more"),
        ("report run --limit abc", "argument --limit: 'abc': give a number of MiB, 0 or more"),
        ("track sync", "the following arguments are required: RUN"),
        ("track synk output/a", "invalid choice: 'synk'"),
        ("trian run.yaml", "invalid choice: 'trian'"),
        ("", "the following arguments are required: VERB"),
    ],
)
def test_a_flag_belongs_to_its_verb(capsys, line, message):
    with pytest.raises(SystemExit) as end:
        parse(line.split())
    assert end.value.code == 2 and message in capsys.readouterr().err


def test_each_verb_explains_its_own_flags(capsys):
    for verb in cli.VERBS:
        with pytest.raises(SystemExit):
            parse([verb, "--help"])
        text = capsys.readouterr().out
        assert text.startswith(f"usage: ray-distill {verb}") and ("--prompt" in text) == (verb == "sample")
        assert ("--no-push" in text) == (verb in (*RUN_VERBS, "import"))


def test_formats_of_an_export_are_flags():
    args = parse(["export", "run.yaml", "train.steps=1", "--format", "comfyui_lora", "--format", "original_float8"])
    assert args.overrides == ["train.steps=1", "model.export_formats=[comfyui_lora, original_float8]"]
    assert parse(["export", "run.yaml"]).overrides == []


def test_an_unknown_format_is_refused_by_name(tmp_path, capsys):
    config = tmp_path / "run.yaml"
    config.write_text(Path("configs/quickstart.yaml").read_text())
    assert cli.main(["export", str(config), "--format", "gguf"]) == 2
    assert "'gguf'" in (err := capsys.readouterr().err) and "comfyui_lora" in err


def test_sample_refuses_a_folder_as_the_file_of_one_video_before_it_samples(tmp_path, capsys):
    arguments = ["sample", str(ROOT / "configs/quickstart.yaml"), f"output_dir={tmp_path}", "--prompt", "a seven"]
    assert main([*arguments, "--out", str(tmp_path)]) == 2
    assert f"--out {tmp_path}: one video is an mp4 file" in capsys.readouterr().err
    assert main([*arguments[:3], "--prompts", str(tmp_path)]) == 2
    assert f"--prompts {tmp_path}: no such file" in capsys.readouterr().err
    (tmp_path / "p.json").write_text('{"a": 5}')
    assert main([*arguments[:3], "--prompts", str(tmp_path / "p.json")]) == 2
    assert "p.json: 'a' is 5, and a prompt is text" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("verb", "more", "told"),
    [
        ("sample", ["data.height=25", "--prompt", "a six"], "data.height = 25: the model takes multiples of 8"),
        ("evaluate", ["data.height=25"], "data.height = 25: the model takes multiples of 8"),
        ("evaluate", ["evaluate.metric=nope"], "nope: this folder has no config.json"),
        ("export", ["--format", "comfyui_lora"], "comfyui_lora needs an adapter, and the export of student has none"),
    ],
)
def test_later_verbs_name_what_check_would(verb, more, told, tmp_path, capsys):
    config, options = str(ROOT / "configs/quickstart.yaml"), [each for each in more if "=" in each]
    assert main([verb, config, f"output_dir={tmp_path}", *options, *more[len(options) :]]) == 2
    assert told in capsys.readouterr().err
