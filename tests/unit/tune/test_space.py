from pathlib import Path

import pytest
import yaml

from ray_distill.config import ConfigError, load_config
from ray_distill.tune.space import base_point, best_config, load_sweep, trial_config
from ray_distill.tune.sweep import search_algorithm
from tests.unit.toys import settings

CONFIGS = Path(__file__).parents[3] / "configs"
RATE = "roles.student.optimizer.learning_rate"


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes a sweep around the small run and loads it."""
    monkeypatch.setattr("os.environ", {})
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(settings(tmp_path, evaluate__metric=str(tmp_path / "metric"))))

    def load(*overrides, **changed):
        tree = {
            "name": "s",
            "base": str(tmp_path / "base.yaml"),
            "output_dir": str(tmp_path / "output"),
            "space": {
                RATE: {"loguniform": ["1e-5", 1e-3]},
                "method.timesteps": {"choice": ["1000,500", "1000,757,522"]},
            },
            "first_rung": 200,
            **changed,
        }
        (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(tree))
        return load_sweep(tmp_path / "sweep.yaml", list(overrides))

    return load


def test_a_trial_is_the_base_at_a_point(written, tmp_path):
    sweep, base = written("trials=3", "overrides.train.workers=1")
    assert (sweep.trials, base.config.train.workers) == (3, 1)
    config = trial_config(sweep, base.config, {RATE: 2e-4, "method.timesteps": "1000,500"}, "trial_a", 0.25)
    assert config.roles["student"].optimizer.learning_rate == 2e-4
    assert config.method.timesteps == (1000.0, 500.0)
    assert config.run_dir == tmp_path / "output/s/runs/trial_a"
    assert (config.evaluate.enabled, config.evaluate.every, config.train.cpus_per_worker) == (False, 200, 0.25)


def test_the_base_is_the_choice_that_is_its_own_where_a_choice_is_a_section(written):
    key = "roles.student.lora"
    for own in (None, {"rank": 8}):
        sweep, base = written(space={key: {"choice": [{"rank": 4}, {"rank": 8}, None]}}, overrides={key: own})
        assert base_point(sweep, base.config) == {key: own}


NAME = "\U0001f680 a: #b \u2028 'c' \"d\"" + 70 * " long"


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        ({"evaluate.goals": {}}, []),
        ({"evaluate.goals": {"accuracy": 0.5}}, ["accuracy"]),
        ({"evaluate": {"goals": {"accuracy": 0.5}}}, ["accuracy", "within.motion_ratio"]),
        ({"evaluate": {"goals": {"within": {}}}}, []),
    ],
)
def test_overrides_of_the_base_are_those_of_the_command_line(written, tmp_path, overrides, names):
    """A mapping replaces, as it does there; under the bare name of a section it holds the section's keys."""
    within = {"motion_ratio": {"at_least": 0.9}}
    (tmp_path / "goals.yaml").write_text(
        yaml.safe_dump(settings(tmp_path, evaluate__metric=str(tmp_path / "m"), evaluate__goals={"within": within}))
    )
    overrides = overrides | {"track.experiment": NAME, "track.register_as": 2026}
    base = written("overrides.train.micro_batch=2", base=str(tmp_path / "goals.yaml"), overrides=overrides)[1].config
    assert base.evaluate.goals.names == names
    assert (base.train.micro_batch, base.track.experiment, base.track.register_as) == (2, NAME, "2026")


def test_where_the_base_stands(written):
    sweep, base = written()
    assert base_point(sweep, base.config) == {RATE: 1e-4, "method.timesteps": "1000,757,522"}


def test_the_best_is_a_run_of_its_own(written, tmp_path):
    sweep, base = written()
    config = best_config(sweep, base.config, {RATE: 3e-4})
    (tmp_path / "best.yaml").write_text(yaml.safe_dump(config.dump()))
    again = load_config(tmp_path / "best.yaml", environment={}).config
    assert again == config
    assert (config.name, config.evaluate.enabled, config.evaluate.every) == ("s_best", True, None)
    assert config.roles["student"].optimizer.learning_rate == 3e-4


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"space": {"roles.student.optimizer.rate": {"uniform": [0, 1]}}}, r"space\.roles.*unknown key.*learning_rate"),
        ({"space": {RATE: {"uniform": [-1, 1e-4]}}}, r"space\.roles\.student\.optimizer\.learning_rate = -1\.0"),
        (
            {"space": {"method.student_interval": {"uniform": [2, 9]}}},
            r"space\.method\.student_interval = 4\.57\d*: .*valid integer.*; list the values that are right: choice",
        ),
        (
            {"space": {"method.student_interval": {"loguniform": [2, 8]}}},
            r"space\.method\.student_interval = 3\.33\d*: .*valid integer",
        ),
        ({"space": {"seed": {"choice": [0, 1]}}}, r"space\.seed: all trials share this key"),
        ({"space": {"data.frames": {"choice": [9]}}}, r"space\.data\.frames: all trials share this key"),
        (
            {"space": {RATE: {"loguniform": [1e-3, 1e-2]}}},
            r"the base's 0\.0001 is not in .*widen the range, or set try_base=false",
        ),
        (
            {"space": {"roles.student.ema_decay": {"uniform": [0.9, 0.99]}}},
            r"the base's null is not in \[0\.9, 0\.99\]; widen the range, or set try_base=false",
        ),
        ({"space": {RATE: {"loguniform": [1e-3, 1e-4]}}}, r"give the lower end first"),
        ({"space": {RATE: {"loguniform": [0, 1e-4]}}}, r"both ends must be above 0"),
        ({"space": {RATE: {"choice": [1e-4], "uniform": [0, 1]}}}, r"exactly one of uniform, loguniform and choice"),
        ({"space": {RATE: {}}}, r"exactly one of"),
        ({"space": {"method.timesteps": {"choice": ["500,1000"]}}}, r"space\.method\.timesteps = '500,1000'"),
        ({"space": {}}, r"space"),
        ({"first_rung": 800}, r"first_rung = 800: this must be below train\.steps = 800"),
        ({"trails": 3}, r"trails: unknown key.*did you mean 'trials'"),
        ({"overrides": {"evaluate.metric": None}}, r"objective: frechet needs evaluate\.metric; set it"),
        ({"base": "/nowhere/base.yaml"}, r"/nowhere/base\.yaml: no such configuration file"),
    ],
)
def test_bad_sweeps_are_refused_by_name(written, changed, message):
    with pytest.raises(ConfigError, match=message):
        written(**changed)


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("sweep_*.yaml")), ids=lambda path: path.name)
def test_shipped_sweeps_load(path):
    sweep, base = load_sweep(path, [])
    assert set(base_point(sweep, base.config)) == set(sweep.space)


@pytest.mark.parametrize("search", ["random", "optuna"])
def test_both_searches_hold_to_the_trials_at_a_time(written, search):
    sweep, base = written(f"search={search}")
    assert search_algorithm(sweep, base.config, 2).max_concurrent == 2


def test_trials_compare_with_the_teacher_only_where_the_search_needs_it(written):
    sweep, base = written()
    assert sweep.objective == {"frechet": 1.0} and not sweep.compares
    assert not trial_config(sweep, base.config, {}, "a").evaluate.validation_ratios
    sweep, base = written(constraints={"motion_ratio": {"at_least": 0.95}}, objective="accuracy")
    assert sweep.objective == {"accuracy": 1.0}
    assert trial_config(sweep, base.config, {}, "a").evaluate.validation_ratios


def test_videos_without_a_metric_are_searched_by_measures(written):
    moving = {"objective": {"motion_ratio": -1.0}}
    sweep, _ = written("overrides.evaluate.metric=null", **moving)
    assert sweep.compares
    with pytest.raises(ConfigError, match=r"objective: frechet needs evaluate.metric; set it"):
        written("overrides.evaluate.metric=null")
    with pytest.raises(
        ConfigError, match=r"constraints: clipped_difference needs clipped among evaluate.metrics = \[motion"
    ):
        written("overrides.evaluate.metrics=[motion]", constraints={"clipped_difference": {"at_most": 0.01}}, **moving)
    with pytest.raises(ConfigError, match=r"objective: 'motoin' is not a measure of samples; choose from frechet, acc"):
        written(objective="motoin")
