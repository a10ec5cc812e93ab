"""LTX-2 from an image on a tiny pipeline, from pictures or files with sound to an export that diffusers samples."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from ray_distill.cli import main
from ray_distill.config import RunConfig
from ray_distill.evaluate.compare import teachers
from ray_distill.evaluate.generate import _generate
from ray_distill.evaluate.prompts import _encode, _read
from ray_distill.export.diffusers import export_student
from ray_distill.export.verify import verify
from ray_distill.models.conditions import collate, unconditional
from ray_distill.models.loading import load_transformer
from ray_distill.models.packed import modalities, picture, prefix_length, tensor_shape
from ray_distill.rng import StatelessRng
from ray_distill.types import Batch
from tests.ray.conftest import ROOT
from tests.slow.test_ltx2 import OPTIMIZER, SHARED, WHOLE, streams
from tests.unit.data.heard import click, write

CAPTIONS = "a red kite", "a dog barks"


def written(folder: Path, roles: dict, shared: bool, files: bool) -> dict:
    """A configuration below ``folder``, with its pipeline, picture, prompts and clips."""
    script = [sys.executable, ROOT / "examples/tiny_ltx2.py", folder / "model"]
    subprocess.run(script, check=True, timeout=300)
    pixels = np.random.default_rng(0).integers(0, 256, (96, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "kite.png")
    lines = [json.dumps({"caption": caption, "image": "kite.png"}) for caption in CAPTIONS]
    (folder / "prompts.jsonl").write_text("\n".join(lines))
    (folder / "clips").mkdir()
    for number in range(2):
        write(folder / f"clips/a dog barks {number}.mp4", click(1, 0.2 + 0.1 * number), frames=24)
    pictures = {"prompts": str(folder / "prompts.jsonl"), "image_column": "image"}
    videos = {"videos": str(folder / "clips"), "captions": "filename"}
    trained = {role: part | ({} if role == "teacher" else {"optimizer": OPTIMIZER}) for role, part in roles.items()}
    model = {"family": "ltx2", "path": str(folder / "model"), "max_sequence_length": 16}
    return {
        "name": "tiny",
        "output_dir": str(folder),
        "model": model | {"from_image": True, "shared_base": shared},
        "method": {
            "name": "dmd",
            "timesteps": "1000,750,500",
            "student_interval": 2,
            "teacher_guidance": 2.0,
            "audio_guidance": 3.0,
            "backward_simulation": not files,
        },
        "roles": trained,
        "data": {
            "datasets": [videos if files else pictures],
            "frames": 9,
            "height": 64,
            "width": 64,
            "fps": 24,
            "cache_dir": str(folder / "cache"),
        },
        "train": {"steps": 2, "workers": 2, "cpus_per_worker": 0.5, "global_batch": 2, "micro_batch": 1},
        "track": {"uri": ""},
        "evaluate": {
            "seeds": [1],
            "pictures": 1,
            "teacher_steps": 2,
            "teacher_audio_guidance": 3.0,
            "every": 2,
            "prompts": {"kite": CAPTIONS[0]},
            "images": {"kite": str(folder / "kite.png")},
            "preflight": {"cycles": 0, "clips": 2, "steps": 2},
        },
    }


@pytest.mark.parametrize(("roles", "shared", "files"), [(WHOLE, False, False), (SHARED, True, True)])
def test_a_student_with_sound_is_trained_from_images(
    local_ray: None, tmp_path: Path, roles: dict, shared: bool, files: bool
) -> None:
    """From prompts with pictures as whole weights, or from clips' own first frames as adapters on a shared base; the
    preflight, validations and the evaluation begin from pictures that are given."""
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(written(tmp_path, roles, shared, files)))
    assert main(["check", str(path)]) == 0
    if not files:
        assert main(["preflight", str(path)]) == 0
        assert (compared := (tmp_path / "tiny/preflight/preflight.json")).is_file()
        assert json.loads(compared.read_text())["difference"] < 1e-4
    assert main(["train", str(path)]) == 0
    export = tmp_path / "tiny/export"
    assert verify(export, CAPTIONS[0], image=tmp_path / "kite.png") < 1e-4
    shown = [*(tmp_path / "tiny").rglob("student/*.mp4"), *(tmp_path / "tiny").rglob("teacher_many/*.mp4")]
    assert len(shown) >= 2 and all(streams(video) == ["video", "audio"] for video in shown)
    given = ["--image", str(tmp_path / "kite.png")]
    assert main(["sample", str(path), "--prompt", CAPTIONS[0], "--out", str(tmp_path / "ours.mp4"), *given]) == 0
    theirs = [CAPTIONS[0], tmp_path / "kite.png", tmp_path / "theirs.mp4"]
    subprocess.run([sys.executable, export / "sample.py", *theirs], check=True)
    assert all(streams(tmp_path / name) == ["video", "audio"] for name in ("ours.mp4", "theirs.mp4"))


def test_a_picture_that_is_given_is_learned_sampled_and_replayed_without_a_cluster(tmp_path: Path) -> None:
    """An evaluation's prompt with its picture; four steps of DMD by AdamW from it; the student by diffusers alone."""
    config = RunConfig.model_validate(written(tmp_path, WHOLE, False, False))
    models, latent = config.model.encoders, config.model.pipeline.latent_shape(*config.shown_size)
    _encode(config, tmp_path / "prompts.safetensors")
    rows = _read(tmp_path / "prompts.safetensors", config)
    (negative,) = models.text_encoder().encode([""])
    many = teachers(config)["teacher_many"]
    samples = _generate(config, many, [CAPTIONS[0]], rows, negative, 1, None)
    assert len(samples.videos) == len(samples.tracks) == 1 and many.sampler.audio_guidance_scale == 3.0

    cond = collate(rows, models.fields, latent)
    conds, prefix = (cond, unconditional(negative, cond, models.fields)), prefix_length(1, latent)
    networks = {role: load_transformer("ltx2", config.model.path) for role in config.method.roles}
    denoisers = {role: config.model.pipeline.of.denoiser(network) for role, network in networks.items()}
    descents = {role: torch.optim.AdamW(network.parameters(), 1e-3) for role, network in networks.items()}
    first = {name: value.clone() for name, value in networks["student"].state_dict().items()}
    for step in range(4):
        batch = Batch(
            torch.arange(1) + step, tensor_shape(latent), *conds, prefix=prefix, modalities=modalities(latent)
        )
        shared: dict[str, torch.Tensor] = {}
        for update in config.method.updates(step):
            for role, network in networks.items():
                network.requires_grad_(role == update.role)
            update.loss(denoisers, batch, StatelessRng(0, step), shared).loss.backward()
            descents[update.role].step()
            descents[update.role].zero_grad()
    x = config.method.roll_out(denoisers, batch, StatelessRng(0, 9), "student", grad=False)
    torch.testing.assert_close(picture(x, latent)[:, :, 0], cond["first"].float(), rtol=0, atol=1e-5)
    moved = networks["student"].state_dict()
    assert any((moved[name] - value).abs().max() > 1e-4 for name, value in first.items())
    size = {"frames": 9, "height": 64, "width": 64, "fps": 24.0, "max_sequence_length": 16}
    out = export_student(
        tmp_path / "out",
        networks["student"],
        config.model.path,
        config.method.sampler(),
        latent,
        card={},
        from_image=True,
        **size,
    )
    assert verify(out, CAPTIONS[0], image=tmp_path / "kite.png") < 1e-4
