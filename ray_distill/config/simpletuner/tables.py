"""The tables of docs/simpletuner.md: python -m ray_distill.config.simpletuner.tables"""

from __future__ import annotations

from collections.abc import Mapping

from ray_distill.config.simpletuner.dataset import FIELDS, Field
from ray_distill.config.simpletuner.keys import KEYS
from ray_distill.config.simpletuner.method import DCM, DMD, LCM
from ray_distill.config.simpletuner.outcome import ABSENT, Key

TITLES: Mapping[str, Mapping[str, Key] | Mapping[str, Field]] = {
    "Top level": KEYS,
    "`distillation_config`, `dmd` and `self_forcing`": DMD,
    "`distillation_config`, `dcm`": DCM,
    "`distillation_config`, `lcm`": LCM,
    "A dataset of `data_backend_config`": FIELDS,
}


def table(keys: Mapping[str, Key] | Mapping[str, Field]) -> str:
    """Markdown: key, what it becomes here, SimpleTuner's default where that decides something."""
    rows = ["| key | here |", "|---|---|"]
    for name, key in keys.items():
        default = getattr(key, "default", ABSENT)
        absent = "" if default is ABSENT else f"; absent: `{default}`"
        rows.append(f"| `{name}` | {key.here}{absent} |")
    return "\n".join(rows)


def tables() -> str:
    return "\n\n".join(f"### {title}\n\n{table(keys)}" for title, keys in TITLES.items())


if __name__ == "__main__":
    print(tables())
