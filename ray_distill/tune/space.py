"""The configuration of a sweep: ranges over RunConfig's keys, and the run at a point of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt, model_validator

from ray_distill.config import ConfigError, Loaded, RunConfig
from ray_distill.config.keys import flatten, plain, set_dotted
from ray_distill.config.load import config_of, load, read_yaml
from ray_distill.config.measures import DISTANCES, MEASURE_OF, Bounds, check_names
from ray_distill.config.tree import one_line
from ray_distill.importers import load_run
from ray_distill.settings import Absolute, Folder, Name, Section
from ray_distill.tune.objective import Objective
from ray_distill.types import TEACHER

NOT_SEARCHED = ("name", "output_dir", "seed", "model.", "data.", "evaluate.", "track.", "train.steps", "train.workers")
"""Keys that all trials share, or that would make their distances incomparable."""


def _weights(value: Any) -> Any:
    return {value: 1.0} if isinstance(value, str) else value


class Range(Section):
    """Exactly one of: ``uniform`` or ``loguniform`` [low, high], or ``choice`` [value, ...]."""

    uniform: tuple[float, float] | None = None
    loguniform: tuple[float, float] | None = None
    choice: Annotated[tuple[Any, ...], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _is_a_range(self) -> Range:
        names = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(names) != 1:
            raise ValueError(f"give exactly one of uniform, loguniform and choice, not {names or 'none'}")
        if self.choice is None and not self.values[0] < self.values[1]:
            raise ValueError(f"{names[0]} = {list(self.values)}: give the lower end first")
        if self.loguniform and self.loguniform[0] <= 0:
            raise ValueError(f"loguniform = {list(self.loguniform)}: both ends must be above 0")
        return self

    @property
    def values(self) -> tuple[Any, ...]:
        """The choices, or the two ends."""
        return self.choice or self.loguniform or self.uniform or ()

    @property
    def inner(self) -> tuple[float, ...]:
        """A value between the two ends, by an irrational share so that it is no whole number; none between choices."""
        if self.choice is not None:
            return ()
        (low, high), share = self.values, 1 / math.e
        return (low ** (1 - share) * high**share if self.loguniform else low * (1 - share) + high * share,)


class Sweep(Section):
    """A search over ``base``'s keys for the smallest objective of the student's samples."""

    name: Name
    base: Absolute
    """The run around which the sweep searches: a configuration for ``train``."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Keys of the base that every trial changes."""
    output_dir: Folder = Path("output")
    space: Annotated[dict[str, Range], Field(min_length=1)]
    objective: Annotated[dict[str, float], BeforeValidator(_weights), Field(min_length=1)] = Field(
        default_factory=lambda: {"frechet": 1.0}
    )
    """Weights of validations' measures in the sum that trials minimise, by name; a name alone weighs 1."""
    constraints: dict[str, Bounds] = Field(default_factory=dict)
    """Bounds on validations' measures: {motion_ratio: {at_least: 0.95}}. A trial that breaks one ranks behind all that
    keep them."""
    search: Literal["optuna", "random"] = "optuna"
    trials: PositiveInt = 16
    seed: NonNegativeInt = 0
    try_base: bool = True
    """Whether the first trial is the base itself."""
    first_rung: PositiveInt | None = None
    """Steps after which ASHA first stops trials; it does so again after ``reduction`` times as many, and so on."""
    reduction: Annotated[int, Field(ge=2)] = 2
    """One in this many trials continues from each rung."""
    concurrent: PositiveInt | None = None
    """Trials at a time; default: as many as fit on the cluster."""

    @property
    def home(self) -> Path:
        return self.output_dir / self.name

    @property
    def aim(self) -> Objective:
        """The objective and the constraints."""
        return Objective(self.objective, self.constraints)

    @property
    def compares(self) -> bool:
        """True if the objective or a constraint compares with the teacher."""
        return not {*MEASURE_OF, *DISTANCES}.isdisjoint((*self.objective, *self.constraints))


def load_sweep(path: Path, overrides: list[str]) -> tuple[Sweep, Loaded]:
    """The sweep and its base, both checked as far as they can be without a cluster; ConfigError names the key."""
    _check_kind(path, overrides)
    sweep, _ = load(Sweep, path, overrides)
    base = load_run(sweep.base, _texts(sweep.overrides))
    steps = base.config.train.steps
    _check_objective(sweep, base.config)
    if sweep.first_rung is not None and sweep.first_rung >= steps:
        raise ConfigError(
            f"first_rung = {sweep.first_rung}: this must be below train.steps = {steps}; lower or remove first_rung"
        )
    for key, range_ in sweep.space.items():
        if key.startswith(NOT_SEARCHED):
            raise ConfigError(f"space.{key}: all trials share this key; set it in the base or in overrides instead")
        for value in (*range_.values, *range_.inner):
            try:
                trial_config(sweep, base.config, {key: value}, "check")
            except ConfigError as error:
                remedy = "; list the values that are right: choice: [...]" if value in range_.inner else ""
                raise ConfigError(f"space.{key} = {value!r}: {error}{remedy}") from None
    if sweep.try_base:
        base_point(sweep, base.config)
    return sweep, base


def _check_kind(path: Path, overrides: list[str]) -> None:
    """ConfigError for the file of a run, and for a key of its base, which has keys that no sweep has."""
    tree, _ = read_yaml(path)
    if "space" not in tree and {"model", "method", "data"} & tree.keys():
        raise ConfigError(f"{path} is a run, not a sweep: ray-distill train {path}; a sweep has a base and a space")
    sections = RunConfig.model_fields.keys() - Sweep.model_fields.keys()
    for item in overrides:
        if item.partition(".")[0] in sections:
            raise ConfigError(f"{item}: this is a key of the sweep's base: overrides.{item}")


def _texts(overrides: Mapping[str, Any]) -> list[str]:
    """``overrides`` as one writes them on the command line, where a mapping replaces the base's. One under the bare
    name of a section holds the section's keys, since ``overrides.train.steps=5`` gives such."""
    pairs = [
        pair for key, value in overrides.items() for pair in ([(key, value)] if "." in key else _leaves(key, value))
    ]
    return [f"{key}={one_line(value)}" for key, value in pairs]


def _leaves(key: str, value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, Mapping) or not value:
        return [(key, value)]
    return [leaf for name, inner in value.items() for leaf in _leaves(f"{key}.{name}", inner)]


def _check_objective(sweep: Sweep, base: RunConfig) -> None:
    """ConfigError if the objective or a constraint names a number that the base's validations do not measure."""
    settings, teacher = base.evaluate, TEACHER in base.method.roles
    for key, names in (("objective", sweep.objective), ("constraints", sweep.constraints)):
        try:
            check_names(
                names,
                settings.metrics,
                settings.metric is not None,
                teacher,
                settings.networks.folders,
                lambda: base.begins_from_picture,
            )
        except ValueError as error:
            raise ConfigError(f"{key}: {error}; set the base's keys in overrides") from None


def trial_config(
    sweep: Sweep, base: RunConfig, point: Mapping[str, Any], name: str, cpus_per_worker: float | None = None
) -> RunConfig:
    """The base at ``point`` of the space: it validates at each rung and leaves the teacher alone."""
    return _with(
        base,
        {
            **point,
            "name": name,
            "output_dir": str(sweep.home / "runs"),
            "evaluate.enabled": False,
            "evaluate.every": sweep.first_rung or base.train.steps,
            "evaluate.goals": {},
            "evaluate.validation_ratios": sweep.compares,
            # A trial that Tune restarts resumes from its own checkpoint.
            **({"train.resume_from": "latest"} if base.train.resume_from == "none" else {}),
            "train.cpus_per_worker": cpus_per_worker or base.train.cpus_per_worker,
        },
    )


def best_config(sweep: Sweep, base: RunConfig, point: Mapping[str, Any]) -> RunConfig:
    """The base at ``point``, for a run of its own."""
    return _with(base, {**point, "name": f"{sweep.name}_best"})


def base_point(sweep: Sweep, base: RunConfig) -> dict[str, Any]:
    """The base's point in the space; ConfigError if it lies outside."""
    flat = flatten(base.dump())
    point = {}
    for key, range_ in sweep.space.items():
        here = flat.get(key)
        inside = [value for value in range_.values if _with(base, {key: value}) == base]
        if range_.choice is None and isinstance(here, int | float) and range_.values[0] <= here <= range_.values[1]:
            inside = [here]
        if not inside:
            raise ConfigError(
                f"space.{key}: the base's {plain(here)} is not in {list(range_.values)}; widen the range, or set "
                "try_base=false"
            )
        point[key] = inside[0]
    return point


def _with(base: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    tree = base.dump(secrets=True)
    for key, value in values.items():
        try:
            set_dotted(tree, key, value)
        except ValueError as error:
            raise ConfigError(str(error)) from None
    return config_of(RunConfig, tree)
