"""What a sweep looks into before it starts: its own folder, and never that of its base's own run."""

from pathlib import Path

import pytest

from ray_distill.checkpoint.layout import folder_name
from ray_distill.config import ConfigError
from ray_distill.train.driver.check import check
from ray_distill.train.driver.run_lock import claim
from ray_distill.tune.space import load_sweep, trial_config
from ray_distill.tune.sweep import LOCK, check_sweep, sweep
from tests.checkpoints import write

ROOT = Path(__file__).parents[3]


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """An empty clone with data, as the working directory."""
    for name in ("configs", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "data/digits").mkdir(parents=True)
    (tmp_path / "data/digits/manifest.jsonl").write_text('{"video": "a.mp4", "caption": "a five moving left"}\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(*overrides):
    sweep, base = load_sweep(Path("configs/sweep_quickstart.yaml"), list(overrides))
    return sweep, base.config


def leave_behind(config, **changed):
    """A whole checkpoint of a run with ``config``'s name, with other settings where they are given."""
    state = {"step": 3, "config": {**config.dump(), **changed}}
    write(config.run_dir / folder_name(3), [], state, 0, 1, lambda part: [part])


def test_a_run_of_the_bases_name_is_neither_read_nor_written(clone):
    sweep, base = load()
    leave_behind(base, seed=9)
    with pytest.raises(ConfigError, match="seed was 9 and is 0"):
        check(base)
    before = sorted(base.run_dir.rglob("*"))
    check_sweep(sweep, base)
    assert sorted(base.run_dir.rglob("*")) == before
    assert not sweep.home.exists()


def test_nor_is_a_damaged_one_or_one_that_the_base_would_not_resume(clone):
    sweep, base = load("overrides.train.resume_from=none")
    leave_behind(base)
    (base.run_dir / folder_name(3) / "state.json").write_text("{")
    check_sweep(sweep, base)


def test_a_trial_that_is_started_again_goes_on_from_its_own_checkpoint(clone):
    sweep, base = load("overrides.train.resume_from=none")
    trial = trial_config(sweep, base, {}, "trial_a")
    leave_behind(trial)
    check(trial)
    assert trial.train.resume_from == "latest" and base.train.resume_from == "none"


@pytest.mark.parametrize("override", ["name=quickstart", "output_dir=output/deeper/.."])
def test_a_sweep_does_not_move_into_the_folder_of_a_run(clone, override):
    sweep, base = load("name=quickstart", override)
    with claim(base.run_dir):
        pass
    with pytest.raises(ConfigError, match=r"name = quickstart: .*output/.*quickstart is the folder of a run; choose"):
        check_sweep(sweep, base)


def test_no_message_of_ours_advises_removing_a_run():
    for path in (ROOT / "ray_distill").rglob("*.py"):
        assert "remove {config.run_dir}" not in path.read_text() and "remove {settings.home}" not in path.read_text()


def test_a_second_sweep_is_told_who_the_first_is(clone):
    settings, base = load()
    with claim(settings.home, LOCK), pytest.raises(ConfigError, match="another driver .*choose another name"):
        sweep(settings, base)
    check_sweep(settings, base)  # and the lock that stays is no run's


@pytest.mark.parametrize(
    ("file", "override", "told"),
    [
        ("configs/quickstart.yaml", [], "is a run, not a sweep: ray-distill train configs/quickstart.yaml"),
        ("configs/sweep_quickstart.yaml", ["train.steps=10"], "a key of the sweep's base: overrides.train.steps=10"),
    ],
)
def test_a_run_or_a_key_of_it_in_the_place_of_a_sweeps_is_named(clone, file, override, told):
    with pytest.raises(ConfigError, match=told):
        load_sweep(Path(file), override)
