"""Print the tables of docs/simpletuner.md: python -m ray_distill.simpletuner.tables"""

from __future__ import annotations

from collections.abc import Mapping

from ray_distill.simpletuner import datatable, idle
from ray_distill.simpletuner.datatable import FIELDS
from ray_distill.simpletuner.fields import Field
from ray_distill.simpletuner.keys import KEYS
from ray_distill.simpletuner.method import DCM, DMD, LCM
from ray_distill.simpletuner.outcome import ABSENT, Key

TITLES: Mapping[str, Mapping[str, Key] | Mapping[str, Field]] = {
    "Top level": KEYS,
    "`distillation_config`, `dmd` and `self_forcing`": DMD,
    "`distillation_config`, `dcm`": DCM,
    "`distillation_config`, `lcm`": LCM,
    "A dataset of `data_backend_config`": FIELDS,
}
NO_EFFECT, REFUSED = "have no effect, since", "are refused unless they are off, since"
REASONS: Mapping[tuple[str, str], Mapping[str, str]] = {
    ("Top level: no effect", NO_EFFECT): idle.IDLE,
    ("Top level: off, or refused", REFUSED): {
        **idle.REFUSED,
        **{f"{why} (`{usual}` is so)": name for name, (usual, why) in idle.USUAL.items()},
    },
    ("A dataset: no effect", NO_EFFECT): datatable.IDLE,
    ("A dataset: off, or refused", REFUSED): datatable.REFUSED,
}


def table(keys: Mapping[str, Key] | Mapping[str, Field]) -> str:
    """A Markdown table: key, its effect here, and SimpleTuner's default where it matters."""
    rows = ["| key | here |", "|---|---|"]
    for name, key in keys.items():
        default = getattr(key, "default", ABSENT)
        absent = "" if default is ABSENT else f"; absent: `{default}`"
        if key.here:
            rows.append(f"| `{name}` | {key.here}{absent} |")
    return "\n".join(rows)


def reasons(keys: Mapping[str, str], what: str) -> str:
    """A Markdown table: keys, and the reason that they share."""
    rows = [f"| these keys | {what} |", "|---|---|"]
    for why, names in keys.items():
        rows.append(f"| {', '.join(f'`{name}`' for name in names.split())} | {why} |")
    return "\n".join(rows)


def tables() -> str:
    """All tables, each under its title; a name that ends in * stands for all names with this beginning."""
    sections = {title: table(keys) for title, keys in TITLES.items()}
    sections |= {title: reasons(keys, what) for (title, what), keys in REASONS.items()}
    return "\n\n".join(f"### {title}\n\n{rows}" for title, rows in sections.items())


if __name__ == "__main__":
    print(tables())
