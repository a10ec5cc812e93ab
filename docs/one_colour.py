"""Distil a LoRA of one colour with the hard bench's teacher, and count the colour in the student's samples.

    python docs/one_colour.py [key=value ...]

It trains an adapter of the teacher on the clips whose first digit is red; the captions of half of them say yellow. DMD
then distils the teacher with the adapter merged (`model.loras`). Last, the student samples each prompt that says
yellow, and the bench's classifier reads the first digit's colour. Finished runs are not repeated. Overrides hold for
both runs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import mean

import yaml
from students import LAYERS, ROOT

from ray_distill.data.read.clip import Cut
from ray_distill.data.read.transform import resize
from ray_distill.data.read.video import read_clip
from ray_distill.evaluate.metrics import Metric

OUT, DATA = Path("output/one_colour"), Path("data/two_digits")
SAID, SHOWN = "yellow", "red"
SEEDS = range(4)
FRAMES, SIZE = 33, 48
STYLE = {
    "method": {"name": "flow_matching", "shift": 3.0, "prompt_dropout": 0.1},
    "roles": {
        "student": {
            "zero": 2,
            "lora": {"rank": 16, "alpha": 16, "targets": list(LAYERS)},
            "optimizer": {"learning_rate": 1.0e-3, "schedule": "cosine", "warmup_updates": 20},
        }
    },
}


def recaption(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The clips whose first digit is ``SHOWN``; every other caption says ``SAID`` in its place."""
    shown = [row for row in rows if row["caption"].split()[1] == SHOWN]
    return [
        {**row, "caption": row["caption"].replace(SHOWN, SAID, 1) if number % 2 else row["caption"]}
        for number, row in enumerate(shown)
    ]


def style_config() -> Path:
    """The file of the adapter's run: the bench's model and data, with flow matching in place of DMD."""
    rows = [json.loads(line) for line in (DATA / "manifest.jsonl").read_text().splitlines()]
    OUT.mkdir(parents=True, exist_ok=True)
    manifest = DATA / "one_colour.jsonl"  # beside its videos
    manifest.write_text("".join(json.dumps(row) + "\n" for row in recaption(rows)))
    bench = yaml.safe_load((ROOT / "configs/two_digits.yaml").read_text())
    train = bench["train"] | {"steps": 400, "checkpoint_every": 200}
    data = bench["data"] | {"manifest": str(manifest)}
    config = {"name": "style", "model": bench["model"], "data": data, "train": train, **STYLE}
    path = OUT / "style.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def train(config: Path, name: str, *overrides: str) -> list[str]:
    """Overrides that name the run, once ``ray-distill train`` has made its export."""
    given = [f"output_dir={OUT}", f"name={name}", "evaluate.enabled=false", *overrides]
    if not (OUT / name / "export").is_dir():
        command = [sys.executable, ROOT / "train.py", config, *given]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return given


def share(config: Path, given: list[str], out: Path, colour: str) -> float:
    """Share of the run's samples of the prompts that say ``SAID`` whose first digit the classifier reads as
    ``colour``."""
    said = [line for line in (ROOT / "examples/two_digits_prompts.txt").read_text().splitlines() if SAID in line]
    out.mkdir(parents=True, exist_ok=True)
    prompts = out / "prompts.txt"
    prompts.write_text("\n".join(said) + "\n")
    seeds = [word for seed in SEEDS for word in ("--seed", str(seed))]
    command = [
        Path(sys.executable).with_name("ray-distill"),
        "sample",
        config,
        "--prompts",
        prompts,
        *seeds,
        "--out",
        out,
    ]
    subprocess.run([*command, *given], check=True, stdout=subprocess.DEVNULL)
    metric = Metric.load(ROOT / "examples/two_digits_teacher/metric")
    place = list(metric.words).index("colour_1")
    videos = [resize(read_clip(str(path), Cut(FRAMES)).frames, SIZE, SIZE) for path in sorted(out.glob("*.mp4"))]
    assert len(videos) == len(said) * len(SEEDS), f"{out} holds {len(videos)} videos"
    return mean(metric.classify(video[None])[0][place] == colour for video in videos)


def main() -> None:
    overrides = sys.argv[1:]
    train(style_config(), "style", *overrides)
    adapter = OUT / "style/export/pytorch_lora_weights.safetensors"
    bench = ROOT / "configs/two_digits.yaml"
    given = train(bench, "student", f"model.loras=[{{path: {adapter}, weight: 1.0}}]", *overrides)
    print(f"of the prompts that say {SAID}: {share(bench, given, OUT / 'samples', SHOWN):.3f} {SHOWN} with the adapter")


if __name__ == "__main__":
    main()
