"""File, which a rule reads: FastVideo's YAML of its trainer `fastvideo.train`, with its keys written with dots."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_distill.simpletuner.outcome import ABSENT, Outcome, locate
from ray_distill.simpletuner.values import Refused, number, whole

LATENTS = ("data_latent", "data", "vae_latent")
"""Values of method.rollout_mode under which FastVideo's student begins from the latents of clips."""
ROLES = {"student": "student", "teacher": "teacher", "critic": "fake_score"}
"""FastVideo's role -> ours."""
TARGET = "method._target_"


@dataclass(frozen=True)
class File:
    """The keys of a file, ``models.student.init_from`` and so on, without those that are null."""

    path: Path
    settings: Mapping[str, Any]
    overridden: Mapping[str, Any]

    def overrides(self, key: str) -> bool:
        """True where environment or command line set ``key``, a section above it, or a key below it."""
        return any(f"{key}.".startswith(f"{o}.") or o.startswith(f"{key}.") for o in self.overridden)

    def read(self, key: str, kind: Callable[[Any], Any], default: Any) -> Any:
        """The value of a key, as ``kind`` reads it; ``default`` where it is not set."""
        try:
            return kind(self.settings[key]) if key in self.settings else default
        except Refused as error:
            raise Refused(f"{key} = {self.settings[key]!r}: {error}") from None

    @property
    def has_own_data(self) -> bool:
        """True where environment or command line name the data."""
        return self.overrides("data.datasets") or self.overrides("data.manifest")

    @property
    def reads_latents(self) -> bool:
        """True for a run whose student begins from the latents of clips."""
        return str(self.settings.get("method.rollout_mode", "")).strip().lower() in LATENTS

    @property
    def causal(self) -> bool:
        """True for a run of Self-Forcing."""
        return str(self.settings.get(TARGET, "")).endswith("SelfForcingMethod")

    @property
    def interval(self) -> int:
        """Steps from one student update to the next; FastVideo updates at each step where the key is 0 or less."""
        return max(1, int(self.read("method.generator_update_interval", whole, 1)))

    @property
    def workers(self) -> int:
        return int(self.overridden.get("train.workers", self.read("training.distributed.num_gpus", whole, 1)))

    @property
    def shift(self) -> float:
        """Shift of the student's noise levels: its own ``flow_shift``, not the pipeline's."""
        return float(self.read("models.student.flow_shift", number, 3.0))

    def role_of(self, key: str) -> str:
        """Our name of the role in ``models.ROLE.NAME``."""
        return ROLES[key.split(".")[1]]

    def locate(self, name: Any) -> Path:
        """The path of a file or folder that the configuration names."""
        return locate(name, self.path)


Rule = Callable[[str, Any, File], Outcome]
"""(key, value, file) -> what the key becomes."""


@dataclass(frozen=True)
class Key:
    """A key: its ``rule``; ``here``, its text in docs/fastvideo.md; ``default``, FastVideo's where it matters."""

    rule: Rule
    here: str
    default: Any = ABSENT
