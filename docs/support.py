"""Write README's table of what each family supports, from the families' declarations: python docs/support.py"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from ray_distill.models import families
from ray_distill.models.spec import Family

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- support: python docs/support.py -->\n", "<!-- end of support -->"
MODELS = {
    "wan": "Wan 2.1 1.3B, 14B, I2V 14B; Wan 2.2 5B, A14B",
    "ltx": "LTX-Video",
    "ltx2": "LTX-2",
    "cogvideox": "CogVideoX 2B, 5B",
    "hunyuan15": "HunyuanVideo 1.5",
}
HEAD = (
    "`model.family`",
    "models",
    "from text",
    "from a picture",
    "sound",
    "two experts",
    "causal",
    "GAN",
    "SP",
    "ComfyUI",
)


def has_features(of: Family) -> bool:
    """True if heads may read features of the family's networks."""
    published = [json.loads(path.read_text())["transformer"] for path in sorted(of.published_folder.glob("*.json"))]
    try:
        of.features(published[0] if published else {})
    except ValueError:
        return False
    return True


def row(of: Family) -> tuple[str, ...]:
    """The cells of one family: ``yes`` or ``no`` for each capability."""
    capabilities = (
        True,
        of.image is not None,
        of.sound is not None,
        of.export.experts,
        of.export.causal is not None,
        has_features(of),
        of.exchange_heads is not None,
        of.original is not None,
    )
    return (f"`{of.name}`", MODELS[of.name], *("yes" if each else "no" for each in capabilities))


def table() -> Iterator[str]:
    """Lines of the table."""
    yield f"| {' | '.join(HEAD)} |"
    yield "|---" * len(HEAD) + "|"
    for of in families():
        yield f"| {' | '.join(row(of))} |"


def page() -> str:
    """README with its current table."""
    text = README.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    return before + BEGIN + "\n".join(table()) + "\n" + END + after


if __name__ == "__main__":
    README.write_text(page())
