"""The last lines of a verb name places that exist and commands that work when pasted."""

from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from ray_distill.data.prepare.cropping import cropped
from ray_distill.data.read.clip import Cut
from ray_distill.endings import command, files_of, of_preparation, of_training
from ray_distill.jsonl import write_document
from ray_distill.track.pages import browsing

ARGS = Namespace(config=Path("my runs/first.yaml"), overrides=["name=second try", "train.steps=9"])
CARD = {
    "clips": 7,
    "skipped": 2,
    "repeated": 1,
    "reasons": {"has no video stream": 2},
    "captions": 5,
    "captions_cut": 1,
    "tokens": {"median": 4, "most": 9, "taken": 8},
    "buckets": {"16x3x6x6": 7},
    "datasets": [{"name": "kites", "place": "clips", "rows": 7, "passes": 1.0}],
    "cropped": {"mean": 0.25, "most": 0.4375},
    "seconds": {"clips": 14.0, "files": 30.5},
}


def test_a_command_repeats_the_overrides():
    assert command("train", ARGS, "--prompt", "a five") == (
        "ray-distill train 'my runs/first.yaml' 'name=second try' train.steps=9 --prompt 'a five'"
    )


def test_a_preparation_ends_with_its_counts_and_what_was_cropped_away(tmp_path):
    (tmp_path / "contact_sheet.png").write_bytes(b"")
    (tmp_path / "quarantine.jsonl").write_text("{}\n")
    assert of_preparation(tmp_path, CARD, ARGS).splitlines() == [
        "",
        "clips                   7 kept, 2 left out, 1 equal to others",
        "left out                2: has no video stream",
        "cropped away            25% of a picture on average, 44% at most",
        "length                  14 s in clips, of files of 30.5 s",
        "captions                5; 4 tokens at the median, 9 at most, of 8; 1 are cut",
        "latents                 7 of 16x3x6x6",
        "data                    kites: 7 samples, 1 time an epoch, from clips",
        f"cache                   {tmp_path}",
        f"sheet                   {tmp_path}/contact_sheet.png",
        f"list of those left out  {tmp_path}/quarantine.jsonl",
        "",
        "Next:",
        "  ray-distill check 'my runs/first.yaml' 'name=second try' train.steps=9",
        "  ray-distill train 'my runs/first.yaml' 'name=second try' train.steps=9",
    ]


def test_a_cache_of_an_earlier_version_has_no_such_line(tmp_path):
    older = {key: value for key, value in CARD.items() if key not in ("cropped", "seconds")}
    assert "cropped" not in of_preparation(tmp_path, older, ARGS)


def test_shares_and_seconds_of_what_no_sample_shows():
    clips = SimpleNamespace(crop=True, cut=lambda number: Cut(8, 2, None, number))
    source = SimpleNamespace(parts=[""], clips=lambda part: clips)
    header = '[{{"width": {}, "height": 100, "pixel_aspect": {}, "seconds": 3.0, "rate": 8.0}}, null]'
    rows = pa.table(
        {
            "header": [header.format(200, 1.0), header.format(200, 1.0), header.format(50, 2.0), ""],
            "dataset": np.zeros(4, np.int64),
            "video": ["wide", "wide", "square", ""],
            "number": [0, 1, 0, 0],
            "height": [64] * 4,
            "width": [64] * 4,
        }
    )
    # Half of each wide picture, nothing of one whose pixels make it square; clips of 2 s in two files of 3 s.
    assert cropped(source, rows) == {
        "cropped": {"mean": 0.3333, "most": 0.5},
        "seconds": {"clips": 6.0, "files": 6.0},
    }
    clips.crop = False
    assert cropped(source, rows)["cropped"]["most"] == 0
    assert cropped(source, rows.slice(3)) == {}


@pytest.mark.parametrize(
    ("uri", "line"),
    [
        ("", []),
        ("http://ann:hunter2@host/ml/", ["http://ann:***@host/ml/#/experiments/1/runs/ab"]),
        (
            "sqlite:////my runs/mlflow.db",
            [
                "mlflow ui --backend-store-uri 'sqlite:////my runs/mlflow.db' --host 127.0.0.1   "
                "# then open http://127.0.0.1:5000/#/experiments/1/runs/ab"
            ],
        ),
    ],
)
def test_the_line_of_mlflow_leads_to_the_run(uri, line, tmp_path):
    write_document(tmp_path / "run.json", {"run_id": "ab", "page": "#/experiments/1/runs/ab"})
    assert browsing(uri, tmp_path) == line


def test_a_training_names_only_pictures_that_exist(tmp_path):
    config = SimpleNamespace(run_dir=tmp_path, track=SimpleNamespace(uri=""))
    (tmp_path / "losses.png").write_bytes(b"")
    text = of_training(config, ARGS, "it's five")
    assert f"pictures  {tmp_path}/losses.png\n" in text and "mlflow" not in text and "sheet" not in text
    assert text.endswith("""train.steps=9 --prompt 'it'"'"'s five' --out sample.mp4""")


def test_an_export_ends_with_its_files(tmp_path):
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer/weights.safetensors").write_bytes(bytes(1_500_000))
    (tmp_path / "README.md").write_bytes(b"")
    first, second, last = files_of(tmp_path).splitlines()
    assert first.split() == ["README.md", "0.0", "MB"] and second.split() == ["transformer/", "1.5", "MB"]
    assert last == f"{tmp_path}/README.md says how each is used"
