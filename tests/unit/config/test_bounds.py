"""Numbers, lists and names that end a run late, or never let it begin: refused when a configuration is read."""

import json

import pytest
import yaml

from ray_distill.config import ConfigError, RunConfig, load_config
from ray_distill.config.keys import flatten
from tests.unit.toys import settings

NUMBERS = (".nan", ".inf", "-.inf", "1e400", "nan", "-Infinity", "1" + 400 * "0")
ROLES = {"student": {"optimizer": {"learning_rate": 1e-4}, "lora": {"alpha": 4.0}, "ema_decay": 0.9}}


@pytest.fixture
def load(tmp_path):
    def load(*overrides, **dotted):
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(settings(tmp_path, **dotted)))
        return load_config(path, overrides, {}).config

    return load


def numbers(config):
    """The keys of a configuration that hold a float."""
    return [key for key, value in flatten(config.dump()).items() if isinstance(value, float)]


@pytest.mark.parametrize("method", ["dmd", "dmd_gan", "dmd_warm_start", "lcm", "flow_matching", "dcm_semantic"])
def test_no_number_is_nan_or_infinite(load, method):
    roles = {role: {"optimizer": {"learning_rate": 1e-4}} for role in ("student", "fake_score", "discriminator")}
    own = {"dmd": 2, "dmd_gan": 3, "dmd_warm_start": 2}.get(method, 1)
    start = {"method": {"name": method}, "roles": dict(list(roles.items())[:own])}
    config = load(**start)
    keys = numbers(config)
    assert any(key.startswith("method.") for key in keys) and "data.fps" in keys
    tree = config.dump(secrets=True)
    for key in keys:
        for number in (float("nan"), float("inf")):
            changed = json.loads(json.dumps(tree))
            *sections, last = key.split(".")
            section = changed
            for part in sections:
                section = section[part]
            section[last] = number
            with pytest.raises(ValueError, match=last):
                RunConfig.model_validate(changed)


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(
    "key",
    ["method.teacher_guidance", "data.fps", "train.log_every_s", "roles.student.optimizer.eps", "method.flow_shift"],
)
def test_however_it_is_written(load, key, number):
    with pytest.raises(ConfigError, match=key):
        load(f"{key}={number}")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("name=..", "name = '..': it names a folder"),
        ("name=...", "name = '...'"),
        ("name=", "name = ''"),
        (f"name={300 * 'a'}", "300 bytes, and it names a folder; use at most 200"),
        (f"name={150 * 'é'}", "300 bytes"),
        ("evaluate.seeds=[]", "evaluate.seeds = [] (command line): give at least 1"),
        ("evaluate.seeds=[-1]", "evaluate.seeds.0 = -1"),
        ("evaluate.seeds=[1, 1]", "evaluate.seeds = [1, 1]: a seed occurs twice"),
        ("evaluate.tune_seed=-1", "evaluate.tune_seed = -1"),
        (f"evaluate.seeds=[{1 << 64}]", "evaluate.seeds.0 = "),
        ("evaluate={metric: m, videos: 1}", "evaluate.videos = 1: evaluate.metric compares distributions"),
        ("evaluate.guidance_grid=[]", "evaluate.guidance_grid = [] (command line): give at least 1"),
        ("evaluate.guidance_grid=[.nan]", "evaluate.guidance_grid.0 = nan"),
        ("evaluate.shift_grid=[]", "evaluate.shift_grid = []"),
        ("evaluate.shift_grid=[0]", "evaluate.shift_grid.0 = 0"),
        ("evaluate.teacher_shift=0", "evaluate.teacher_shift = 0"),
        ("evaluate.teacher_steps=100000000", "evaluate.teacher_steps = 100000000"),
        ("evaluate.goals.accuracy=1.5", "evaluate.goals.accuracy = 1.5"),
        ("evaluate.goals.frechet_ratio=0", "evaluate.goals.frechet_ratio = 0"),
        ("data.frames=1000000000", "data.frames = 1000000000"),
        ("data.width=1000000000", "data.width = 1000000000"),
        ("data.fps=1e-300", "data.fps = 1e-300"),
        ("data.cache_dir=", "data.cache_dir"),
        ("data.manifest=''", "a path or a URI"),
        ("train.workers=1000000000", "train.workers = 1000000000"),
        ("train.timeout_s=1000000000000", "train.timeout_s = 1000000000000"),
        ("train.global_batch=1000000000000", "train.global_batch = 1000000000000"),
        ("method.timesteps=1000,nan", "method.timesteps = nan: give a finite number"),
        ("method.student_interval=100000000000", "method.student_interval = 100000000000: give a finite number"),
        (
            "track.uri=null",
            "track.uri = None (command line): give a text; the empty text is the key with nothing behind it",
        ),
        ("track.uri=http://", "track.uri: give a URI such as http://host:5000"),
        ("track.uri=https:///mlflow", "give a URI such as http://host:5000"),
        ("track.experiment=", "track.experiment = ''"),
        (f"seed={1 << 70}", "seed = "),
    ],
)
def test_what_no_run_can_use_is_refused_with_its_key(load, override, message):
    with pytest.raises(ConfigError) as error:
        load(override)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "override",
    [
        "name=2026",
        f"name={200 * 'a'}",
        "name=.hidden",
        "name=ø-1.5",
        "evaluate.seeds=[0]",
        "evaluate.videos=1",
        "evaluate.shift_grid=[0.5]",
        "evaluate.guidance_grid=[0, -1]",
        "evaluate.goals={}",
        "data.fps=0.5",
        "train.steps=100000000",
        "track.uri=",
    ],
)
def test_what_a_run_can_use_is_taken(load, override):
    load(override)
