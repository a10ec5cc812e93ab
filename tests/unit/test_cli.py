"""Words at the end of a failure: the user's mistake is a line, a file that the system refuses too, ours are raised."""

import json

import pytest
from ray.exceptions import RayTaskError

from ray_distill import cli
from ray_distill.errors import ConfigError, mistakes


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
