"""Our sampler and diffusers' pipeline make one clip of the teacher; planted guidance and steps are seen."""

import json
from pathlib import Path

import pytest

from ray_distill.export.teacher import link_teacher
from ray_distill.export.verify import verify
from tests.unit.toys import run_config

pytestmark = pytest.mark.slow
DIGITS = Path(__file__).parents[2] / "examples" / "digits_teacher"


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ('recipe["guidance_scale"]', 'recipe["guidance_scale"] + 1'),  # c + s (c - u)
        ('recipe["timesteps"]', '[0.9 * t for t in recipe["timesteps"]]'),
        ("", ""),
    ],
)
def test_the_two_agree_unless_one_is_changed(tmp_path: Path, theirs: str, ours: str) -> None:
    config = run_config(
        tmp_path, model__path=str(DIGITS), model__max_sequence_length=8, evaluate={"teacher_guidance": 3.0}
    )
    folder = link_teacher(config, tmp_path / "linked", (9, 24, 24))
    script = (folder / "sample.py").read_text()
    head = 'recipe = json.loads((here / "recipe.json").read_text())\n'
    key = theirs.partition('"')[2].partition('"')[0]
    planted = f"{head}    recipe[{key!r}] = {ours}\n" if theirs else head
    assert head in script and json.loads((folder / "recipe.json").read_text())["guidance_scale"] == 3.0
    (folder / "sample.py").write_text(script.replace(head, planted))
    difference = verify(folder, "a seven moving left")
    assert difference > 1e-3 if theirs else difference < 1e-4
