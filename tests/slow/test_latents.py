"""A run of FastVideo on its parquet of latents, from its own file to a student."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from ray_distill.cli import main
from ray_distill.data.store.cache import Cache
from ray_distill.models.spec import Field
from ray_distill.models.wan.text import wan_text
from tests.parquet_latents import raw, row, wan_model, write
from tests.ray.conftest import ROOT, Home, read_rows

SHORT = ["train.workers=1", "train.sequence_parallel=1", "train.micro_batch=2", "train.global_batch=2", "train.steps=4"]
SMALL = [f"roles.{role}.dtype=float32" for role in ("student", "fake_score", "teacher")]
UNMEASURED = ["evaluate.enabled=false", "evaluate.every=null", "train.cpus_per_worker=0.5", "evaluate.prompts={}"]


@pytest.mark.parametrize("texts", [False, True])
def test_latents_become_a_student(
    local_ray: None,
    home: Home,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    texts: bool,
) -> None:
    monkeypatch.chdir(tmp_path)
    wan_model(tmp_path / "model")
    (tmp_path / "other").symlink_to("model")
    (tmp_path / "validation.json").write_text('{"data": [{"caption": "a fox"}]}')
    clips = [raw(number, (16, 3, 6, 8)) for number in range(6)]
    bad = row("bad", raw(9, (16, 3, 4, 4)))
    states = wan_text(tmp_path / "model", 512).encode([f"kite {n}" for n in range(6)])
    embeddings = [each["text"].bfloat16().float().numpy() for each in states]  # as an encoder in bf16 gives them

    def named(n: int) -> dict[str, object]:
        text = {"bytes": embeddings[n].tobytes(), "shape": list(embeddings[n].shape), "dtype": "float32"}
        return row(str(n), clips[n], f"kite {n}", **{f"text_embedding_{name}": value for name, value in text.items()})

    write(tmp_path / "clips/rank_0/worker_0/a.parquet", [named(n) for n in range(4)])
    write(tmp_path / "clips/rank_0/worker_1/a.parquet", [named(n) for n in (4, 5)] + [bad])
    tree = yaml.safe_load((ROOT / "tests/data/fastvideo/dmd.yaml").read_text())
    tree["method"] |= {"rollout_mode": "data_latent", "generator_update_interval": 2}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tree))
    own = [
        "name=given",
        f"output_dir={tmp_path / 'output'}",
        f"data.cache_dir={tmp_path / 'cache'}",
        f"track.uri={home.uri}",
    ]
    datasets = [f"data.datasets=[{{latents: {tmp_path / 'clips'}, text_embeddings: true}}]"] * texts
    command = ["run.yaml", *own, *SHORT, *SMALL, *UNMEASURED, *datasets]
    assert main(["check", *command]) == 0
    assert "these clips have no pixels" in capsys.readouterr().out
    assert main(["train", *command]) == 0
    (card,) = (tmp_path / "cache").glob("*/card.json")
    cache = Cache(card.parent)
    assert (cache.card["clips"], cache.card["skipped"], cache.card["without_pixels"]) == (6, 1, 6)
    text_of_first = cache.conditions([0], {"text": Field((512, 64), padding="zeros")})[0]["text"]
    number = int(cache.index["caption"][0].as_py()[-1])
    assert (text_of_first == embeddings[number].tobytes()) == texts == ("text_embeddings" in cache.card)
    assert "worker_1/a.parquet, row 3" in (cache.folder / "quarantine.jsonl").read_text()
    rows = read_rows(tmp_path / "output/given")
    assert rows and np.isfinite([value for each in rows for value in each.values()]).all()
    assert (tmp_path / "output/given/export/transformer/config.json").is_file()
