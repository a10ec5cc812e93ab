"""A remembered outline is that of the class, and nothing else is remembered."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

from ray_distill import sealed
from ray_distill.errors import ConfigError
from ray_distill.models import outlines
from ray_distill.models.loading import NATIVE, empty_transformer
from ray_distill.models.outlines import remembered, shapes_of

ROOT = Path(__file__).parents[3]
DIGITS = ROOT / "examples/digits_teacher"
PLACE = "diffusers:Layers"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home/ray_distill/outlines"


@pytest.fixture
def make():
    """A function that makes an outline, and counts its calls."""

    def layers():
        layers.calls += 1
        return shapes_of(nn.Linear(2, 3).named_parameters())

    layers.calls = 0
    return layers


def test_an_outline_is_made_once(make, home):
    every = [remembered(PLACE, {"width": 2}, make) for _ in range(3)]
    assert every == [{"weight": (3, 2), "bias": (3,)}] * 3 and make.calls == 1
    assert len([*home.iterdir()]) == 1


def test_another_class_configuration_or_version_is_made_anew(make, monkeypatch):
    for place, config in ((PLACE, {"width": 2}), ("diffusers:Others", {"width": 2}), (PLACE, {"width": 3})):
        remembered(place, config, make)
    monkeypatch.setattr(outlines.metadata, "version", lambda library: "99.0")
    remembered(PLACE, {"width": 2}, make)
    assert make.calls == 4


@pytest.mark.parametrize(("place", "version"), [("toys:Network", "1.0"), (PLACE, "0.43.0.dev0")])
def test_code_that_changes_under_one_version_is_not_remembered(make, home, monkeypatch, place, version):
    monkeypatch.setattr(outlines.metadata, "version", lambda library: version)
    remembered(place, {}, make)
    remembered(place, {}, make)
    assert make.calls == 2 and not home.exists()


def test_an_error_is_raised_each_time(home):
    def wrong():
        raise ConfigError("no network")

    for _ in range(2):
        with pytest.raises(ConfigError, match="no network"):
            remembered(PLACE, {}, wrong)
    assert not home.exists()


def test_a_damaged_file_is_made_anew(make, home):
    remembered(PLACE, {}, make)
    (file,) = home.iterdir()
    content = json.loads(file.read_text())
    content["shapes"]["weight"] = [30, 2]
    file.write_text(json.dumps(content))
    assert remembered(PLACE, {}, make)["weight"] == (3, 2) and make.calls == 2
    assert sealed.read_json(file)["shapes"]["weight"] == [3, 2]


def test_a_folder_that_cannot_be_written_costs_time_alone(make, home):
    home.parent.parent.mkdir()
    home.parent.write_text("a file in the folder's place")
    assert remembered(PLACE, {}, make) == remembered(PLACE, {}, make) and make.calls == 2


def test_a_second_check_says_the_same_and_imports_no_network(tmp_path, home):
    (tmp_path / "clips.jsonl").write_text('{"video": "a.mp4", "caption": "a five moving down"}')
    (tmp_path / "a.mp4").touch()
    given = [f"data.manifest={tmp_path}/clips.jsonl", f"output_dir={tmp_path}/output", f"model.path={DIGITS}"]
    line = ["check", str(ROOT / "configs/quickstart.yaml"), *given, f"evaluate.metric={DIGITS}/metric"]
    code = (
        f"import sys\nfrom ray_distill.cli import main\nassert main({line}) == 0\n"
        "networks = {'diffusers.models', 'transformers.models.umt5', 'torch._dynamo', 'peft'}\n"
        "print(*sorted(networks & sys.modules.keys()))"
    )
    first, second = (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
        for _ in range(2)
    )
    assert first[:-1] == second[:-1] and "ready to train" in first[-2]
    assert {"diffusers.models", "transformers.models.umt5"} <= {*first[-1].split()} and second[-1] == ""
    shapes = shapes_of(empty_transformer("wan", DIGITS).named_parameters())
    stored = [sealed.read_json(file) for file in home.iterdir()]
    (transformer,) = (each for each in stored if each["class"].startswith("diffusers"))
    assert {name: tuple(shape) for name, shape in transformer["shapes"].items()} == shapes


def test_diffusers_knows_the_backend_that_is_not_looked_up():
    from diffusers.models.attention_dispatch import AttentionBackendName

    assert NATIVE in {backend.value for backend in AttentionBackendName}
