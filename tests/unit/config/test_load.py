import json
from pathlib import Path

import pytest
import yaml

from ray_distill.config import ConfigError, Loaded, RunConfig, load_config
from ray_distill.config.load import write_yaml
from ray_distill.config.method import read_method
from tests.unit.toys import settings

CONFIGS = Path(__file__).parents[3] / "configs"


@pytest.fixture
def load(tmp_path):
    def load(*overrides, environment=None, **dotted):
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(settings(tmp_path, **dotted)))
        return load_config(path, overrides, environment or {})

    return load


def test_command_line_beats_environment_beats_yaml(load, tmp_path):
    environment = {"RAY_DISTILL_TRAIN__STEPS": "20", "RAY_DISTILL_SEED": "5", "PATH": "/bin"}
    loaded = load("train.steps=30", environment=environment, seed=4)
    config, source = loaded.config, loaded.source
    assert (config.train.steps, source("train.steps")) == (30, "command line")
    assert (config.seed, source("seed")) == (5, "$RAY_DISTILL_SEED")
    assert (config.train.workers, source("train.workers")) == (2, str(tmp_path / "run.yaml"))
    assert (config.train.checkpoint_every, source("train.checkpoint_every")) == (500, "default")
    row = next(line for line in loaded.table().splitlines() if line.startswith("train.steps "))
    assert row.split() == ["train.steps", "30", "command", "line"]


def test_the_process_environment_is_read(load, tmp_path, monkeypatch):
    load()
    monkeypatch.setenv("RAY_DISTILL_SEED", "9")
    assert load_config(tmp_path / "run.yaml").config.seed == 9


def test_a_section_can_be_set_at_once_and_made(load):
    loaded = load("roles.student.optimizer={learning_rate: 5e-4, schedule: cosine}", "roles.teacher.zero=1")
    optimizer = loaded.config.role("student").optimizer
    assert optimizer and (optimizer.learning_rate, optimizer.schedule) == (5e-4, "cosine")
    assert loaded.source("roles.student.optimizer.schedule") == "command line"
    assert loaded.config.role("teacher").zero == 1
    loaded = load("evaluate={videos: 7}", evaluate={"batch": 3})
    assert (loaded.config.evaluate.batch, loaded.source("evaluate.batch")) == (50, "default")


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("1000,757,522", (1000.0, 757.0, 522.0)),
        ("1000, 500", (1000.0, 500.0)),
        ("[1000]", (1000.0,)),
        ("1000", (1000.0,)),
    ],
)
def test_spellings_of_a_step_list(load, text, steps):
    assert load(f"method.timesteps={text}").config.method.timesteps == steps


@pytest.mark.parametrize(
    ("method", "text", "value"),
    [
        ("lcm", "guidance=1,5", (1.0, 5.0)),
        ("lcm", "guidance=5", 5.0),
        ("self_forcing", "first_chunk_timesteps=1000,750", (1000.0, 750.0)),
        ("dmd_gan", "gan_depths=0.5,1", (0.5, 1.0)),
        ("dmd_phased", "teacher_guidance=4,3", (4.0, 3.0)),
        ("dcm_semantic", "multiphase=0.8,0.9", (0.8, 0.9)),
        ("dcm_semantic", "multiphase=4", 4),
    ],
)
def test_every_list_of_a_method_takes_commas(method, text, value):
    key, _, written = text.partition("=")
    assert getattr(read_method({"name": method, key: yaml.safe_load(written)}), key) == value


def test_a_method_with_modes_and_another_tools_spelling(load):
    roles = {"student": {"optimizer": {"learning_rate": 1e-4}}}
    seed = {"name": "dcm", "mode": "semantic", "euler_timesteps": 100}
    loaded = load(method=seed, roles=roles)
    assert (loaded.config.method.name, loaded.config.method.euler_steps) == ("dcm_semantic", 100)
    assert loaded.source("method.euler_steps").endswith("run.yaml")
    assert load("method.multiphase=[0.8, 0.9]", method=seed, roles=roles).config.method.multiphase == (0.8, 0.9)
    for changed, message in (
        ("method.euler_steps=50", "method.euler_timesteps is another spelling of method.euler_steps"),
        ("method.mode=semantics", "method.mode = 'semantics': choose from the modes of 'dcm': semantic"),
        ("method={name: dcm}", "method.mode = None: choose from the modes of 'dcm': semantic"),
        ("method={name: dmd, mode: fine}", "method.mode: method 'dmd' has no such key"),
    ):
        with pytest.raises(ConfigError) as error:
            load(changed, method=seed, roles=roles)
        assert message in str(error.value)


@pytest.mark.parametrize(
    ("override", "key", "near"),
    [
        ("sead=1", "sead", "seed"),
        ("train.stpes=1", "train.stpes", "steps"),
        ("model.pth=a", "model.pth", "path"),
        ("data.framse=1", "data.framse", "frames"),
        ("evaluate.metrc=a", "evaluate.metrc", "metric"),
        ("track.experimnt=a", "track.experimnt", "experiment"),
        ("method.timestep=1000", "method.timestep", "timesteps"),
        ("roles.student.zerro=1", "roles.student.zerro", "zero"),
        ("roles.student.optimizer.learning_rat=1", "roles.student.optimizer.learning_rat", "learning_rate"),
        ("roles.fake_scor.zero=1", "roles.fake_scor", "fake_score"),
    ],
)
def test_unknown_keys_name_the_nearest(load, override, key, near):
    with pytest.raises(ConfigError) as error:
        load(override)
    assert key in str(error.value) and f"did you mean {near!r}?" in str(error.value)


def test_a_sweep_is_no_run():
    with pytest.raises(ConfigError, match=r"sweep_quickstart\.yaml is a sweep, not a run: ray-distill tune "):
        load_config(CONFIGS / "sweep_quickstart.yaml")


def test_every_mistake_is_told_at_once_with_its_source(load):
    with pytest.raises(ConfigError) as error:
        load("train.stpes=1", "seed=x", environment={"RAY_DISTILL_NOISE": "1"})
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert any("train.stpes" in line and "(command line)" in line for line in lines)
    assert any("noise" in line and "($RAY_DISTILL_NOISE)" in line for line in lines)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.steps=0", "train.steps = 0 (command line): "),
        ("train.steps=many", "train.steps = 'many' (command line): "),
        ("train.global_batch=6", "train.global_batch = 6 is no multiple of workers x micro_batch = 2 x 2"),
        (
            "train={steps: 1, micro_batch: 2, global_batch: 16, workers: 4, min_workers: 2}",
            "workers x micro_batch = 3 x 2; train.min_workers = 2",
        ),
        ("train.min_workers=3", "train.min_workers = 3 is more than train.workers = 2"),
        (
            "train={steps: 1, micro_batch: 2, global_batch: 16, workers: 8, sequence_parallel: 3}",
            "train.workers = 8 is no multiple of it; set sequence_parallel to one of 1, 2, 4, 8, or workers to 6 or 9",
        ),
        (
            "train={steps: 1, micro_batch: 2, global_batch: 16, workers: 8, min_workers: 6, sequence_parallel: 4}",
            "train.min_workers = 6 is no multiple of it; set sequence_parallel to one of 1, 2, or min_workers to 4",
        ),
        (
            "train={steps: 1, micro_batch: 2, global_batch: 16, workers: 6, sequence_parallel: 2}",
            "is no multiple of workers / sequence_parallel x micro_batch = 6 / 2 x 2",
        ),
        ("roles.student.zero=4", "roles.student.zero = 4 (command line): "),
        ("roles.student.optimizer.betas=[0, 1]", "roles.student.optimizer.betas.1 = 1"),
        ("name=a/b", "name = 'a/b' (command line): "),
        ("method.name=dmdd", "method.name = 'dmdd': did you mean 'dmd'?"),
        ("method=dmd", "method = 'dmd': write a section with a name"),
        ("method.timesteps=500,757", "method.timesteps = [500.0, 757.0]: give one or more strictly decreasing"),
        ("method.timesteps=[]", "method.timesteps = []: give one or more"),
        ("method.timesteps=1200,500", "method.timesteps = [1200.0, 500.0]: give one or more strictly decreasing"),
        (
            "method.timesteps=500,0",
            "method.timesteps = [500.0, 0.0]: give one or more strictly decreasing timesteps in (0",
        ),
        ("method.timesteps=1000,x", "method.timesteps.1 = 'x': "),
        ("seed=-1", "seed = -1 (command line): "),
        ("method.student_interval=0", "method.student_interval = 0: use 1 (each step)"),
        ("method.teacher_guidance=high", "method.teacher_guidance = 'high': "),
        (
            "method.num_frame_per_block=3",  # a causal key on a bidirectional student
            "method.num_frame_per_block: method 'dmd' has no such key; it is a key of self_forcing, ",
        ),
        ("method.context_noise=0", "method 'dmd' has no such key; it is a key of self_forcing, "),
        ("method.rollout=euler", "method.rollout = 'euler': "),
        ("model.family=wann", "model.family = 'wann': did you mean 'wan'?"),
        ("name=second try", "name = 'second try' (command line): a name has letters, digits, '_', '-', '.' alone"),
        ("publish.hub_model_id=a b/c", "(command line): a name has letters, digits, '_', '-', '.' and one '/' alone"),
        ("model.family=Wan2.2", "model.family = 'Wan2.2': did you mean 'wan'?"),
        ("model.family=ltxvideo", "model.family = 'ltxvideo': did you mean 'ltx'?"),
        ("model.family=LTX-2", "model.family = 'LTX-2': did you mean 'ltx2'?"),
        ("model.family=flux", "model.family = 'flux': known: cogvideox, hunyuan15, ltx, ltx2, wan"),
        ("train.steps", "'train.steps': overrides are written key=value"),
        ("seed.x=1", "command line: seed.x=1: seed.x: 'seed' has a value and no keys of its own"),
        ("data.frames=[1", "command line: data.frames=[1: "),
    ],
)
def test_bad_values_name_key_and_value(load, override, message):
    with pytest.raises(ConfigError) as error:
        load(override, seed=0)
    assert message in str(error.value)


def test_fewer_workers_are_taken_where_each_number_divides_the_batch(load):
    train = load("train={steps: 1, micro_batch: 2, global_batch: 24, workers: 4, min_workers: 2}").config.train
    assert (train.min_workers, train.workers) == (2, 4)


@pytest.mark.parametrize(
    ("dotted", "message"),
    [
        ({"method": {"name": "flow_matching"}}, "roles.fake_score: method 'flow_matching' has no such role"),
        ({"roles__fake_score__optimizer": None}, "roles.fake_score.optimizer: method 'dmd' trains this role"),
        ({"roles": {}}, "roles.student.optimizer: method 'dmd' trains this role"),
        ({"roles__teacher": {"optimizer": {"learning_rate": 1}}}, "roles.teacher: this role is frozen"),
        ({"roles__teacher": {"ema_decay": 0.9}}, "roles.teacher: this role is frozen"),
    ],
)
def test_roles_must_fit_the_method(load, dotted, message):
    with pytest.raises(ConfigError) as error:
        load(**dotted)
    assert message in str(error.value)


def test_what_is_missing_is_named(tmp_path):
    tree = settings(tmp_path)
    del tree["train"]["steps"], tree["model"]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(ConfigError) as error:
        load_config(tmp_path / "run.yaml", environment={})
    assert str(error.value).splitlines() == ["model: required, and not set", "train.steps: required, and not set"]


@pytest.mark.parametrize(("text", "message"), [("a: [", "not valid YAML"), ("- a", "expected a mapping")])
def test_files_that_are_no_configuration(tmp_path, text, message):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "run.yaml")
    with pytest.raises(ConfigError, match="no such configuration file"):
        load_config(tmp_path / "none.yaml")


RUNS = [path for path in sorted(CONFIGS.rglob("*.yaml")) if not path.name.startswith("sweep_")]


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.relative_to(CONFIGS).as_posix())
def test_every_shipped_configuration_parses(path):
    loaded = load_config(path, environment={})
    assert set(loaded.sources.values()) == {str(path)}


@pytest.mark.parametrize("method", [{"name": "dmd", "timesteps": "1000,757,522"}, {"name": "flow_matching"}])
def test_dump_builds_the_same_configuration_again(load, tmp_path, method):
    roles = {"student": {"optimizer": {"learning_rate": 1e-4}, "ema_decay": 0.9, "path": "elsewhere"}}
    if method["name"] == "dmd":
        roles["fake_score"] = {"optimizer": {"learning_rate": 1e-4, "betas": [0.0, 0.9]}}
    config = load(method=method, roles=roles).config
    dumped = config.dump()
    assert json.loads(json.dumps(dumped)) == dumped  # plain JSON types: what a checkpoint stores compares equal
    assert RunConfig.model_validate(dumped) == config


def test_a_number_is_an_item_of_a_list(load, tmp_path):
    sets = [{"manifest": str(tmp_path / "a.jsonl")}, {"prompts": str(tmp_path / "b.txt")}]
    loaded = load("data.datasets.1.prompts=c: d.txt", data__datasets=sets, data__manifest=None)
    assert [part.place.name for part in loaded.config.data.parts] == ["a.jsonl", "c: d.txt"]
    assert loaded.source("data.datasets") == "command line"
    with pytest.raises(
        ConfigError, match=r"datasets\.2\.prompts: '2' is no item of this list of 2; give 0 to 1, or all"
    ):
        load("data.datasets.2.prompts=c.txt", data__datasets=sets, data__manifest=None)
    with pytest.raises(ConfigError, match=r"give the whole list: data\.datasets=\[\.\.\.\]"):
        load("data.datasets.0.prompts=c.txt", data__manifest=None)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\x85", "\u2028", "\u2029", "\x0c", "\x07", "\x7f", "\ud83d"])
def test_an_imported_file_is_the_same_configuration_whatever_ends_its_lines(load, tmp_path, end):
    prompt = f"a cat{end}train: dog"
    tree = settings(tmp_path, data__negative_prompt=prompt)
    loaded = Loaded(load().config, {}, tree, [f"negative_prompt = {prompt!s} -> data.negative_prompt"])
    write_yaml(tmp_path / "ours.yaml", loaded, f"their{end}.json")
    assert load_config(tmp_path / "ours.yaml", environment={}).config.data.negative_prompt == prompt
    assert (tmp_path / "ours.yaml").read_text().splitlines()[2] == "name: run"


def test_the_configuration_is_frozen(load):
    config = load().config
    with pytest.raises(ValueError, match="frozen"):
        config.train.steps = 3


def test_derived_values(load, tmp_path):
    config = load(roles__student__path="other", roles__student__ema_decay=0.9).config
    assert config.train.accumulation == 2
    assert config.source("teacher") == config.model.path and config.source("student") == Path("other").absolute()
    assert config.role("teacher").zero == 3 and config.role("teacher").optimizer is None
    assert config.student_tensors == "ema" and load().config.student_tensors == "weights"
    assert config.run_dir == tmp_path / "output" / "run"


def test_relative_places_are_those_of_the_working_directory_of_now(load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load().config
    assert config.track.uri == f"sqlite:///{tmp_path}/mlruns/mlflow.db" and config.data.cache_dir == tmp_path / "cache"
    assert load("track.uri=http://mlflow:5000").config.track.uri == "http://mlflow:5000"
    assert load("track.uri=''").config.track.uri == ""
