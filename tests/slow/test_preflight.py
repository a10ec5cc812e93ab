"""Our sampler and diffusers' pipeline make one clip of the teacher; a few cycles train aside, beside the plan."""

import json
from pathlib import Path

import pytest

from ray_distill.cli import main
from ray_distill.export.teacher import link_teacher
from ray_distill.export.verify import verify
from tests.ray.conftest import MEASURED, Home
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


def test_cycles_train_aside_and_are_as_large_as_planned(straight: Path, home: Home) -> None:
    looks = ["evaluate.preflight.compare=false", "evaluate.preflight.clips=0", "evaluate.preflight.cycles=5"]
    overrides = home.overrides("cycled", *MEASURED, "evaluate.pictures=2", *looks)
    assert main(["preflight", "configs/quickstart.yaml", *overrides]) == 0
    folder = home.folder / "output/cycled/preflight"
    numbers = json.loads((folder / "preflight.json").read_text())
    assert numbers["measured"]["steps"] == 5 * 2 and numbers["measured"]["memory"] > 2**27
    assert numbers["measured"]["checkpoint"] / numbers["planned"]["checkpoint"] == pytest.approx(1, abs=0.05)
    for role, share in (("student", 0.5), ("fake_score", 1.0)):
        measured = numbers["measured"]["roles"][role]
        assert measured["share"] == share and 0 < measured["seconds"] < 60
        assert measured["checkpoint"] / numbers["planned"]["checkpoint"] == pytest.approx(0.5, abs=0.1)
    assert any(line.startswith("student: ") and "TFLOP/s" in line for line in numbers["lines"])
    assert {path.name for path in folder.iterdir()} == {"preflight.json", "contact_sheet.png", "teacher_many"}
