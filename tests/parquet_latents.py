"""Parquet of latents in the schema that FastVideo publishes for text to video (docs/fastvideo.md), and a model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from diffusers import AutoencoderKLWan

DIGITS = Path(__file__).parents[1] / "examples" / "digits_teacher"
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("vae_latent_bytes", pa.binary()),
        ("vae_latent_shape", pa.list_(pa.int64())),
        ("vae_latent_dtype", pa.string()),
        ("text_embedding_bytes", pa.binary()),
        ("text_embedding_shape", pa.list_(pa.int64())),
        ("text_embedding_dtype", pa.string()),
        ("file_name", pa.string()),
        ("caption", pa.string()),
        ("media_type", pa.string()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("num_frames", pa.int64()),
        ("duration_sec", pa.float64()),
        ("fps", pa.float64()),
    ]
)
MEAN, STD = [(n - 8) / 10 for n in range(16)], [0.5 + n / 8 for n in range(16)]


def wan_model(folder: Path) -> Path:
    """The digits' pipeline with a small VAE of Wan's class in place of its own codec; returns ``folder``."""
    shutil.copytree(DIGITS, folder)
    shutil.rmtree(folder / "vae")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = AutoencoderKLWan(
            base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=MEAN, latents_std=STD
        )
    vae.save_pretrained(folder / "vae")
    index = json.loads((folder / "model_index.json").read_text()) | {"vae": ["diffusers", "AutoencoderKLWan"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def row(name: str, latents: np.ndarray, caption: str | None = "a kite", **changes: Any) -> dict[str, Any]:
    """A row as the preprocessing writes it: num_frames counts latent frames, and width and height are swapped."""
    embedding = np.zeros((3, 8), np.float32)
    values = {
        "id": name,
        "vae_latent_bytes": latents.tobytes(),
        "vae_latent_shape": list(latents.shape),
        "vae_latent_dtype": str(latents.dtype),
        "text_embedding_bytes": embedding.tobytes(),
        "text_embedding_shape": list(embedding.shape),
        "text_embedding_dtype": "float32",
        "file_name": name,
        "caption": caption,
        "media_type": "video",
        "width": 8 * latents.shape[-2],
        "height": 8 * latents.shape[-1],
        "num_frames": latents.shape[1],
        "duration_sec": 1.0,
        "fps": 16.0,
    }
    return values | changes


def write(path: Path, rows: Sequence[dict[str, Any]], group: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows), SCHEMA), path, row_group_size=group, compression="zstd")


def raw(seed: int, shape: Sequence[int] = (16, 3, 4, 4)) -> np.ndarray:
    """Latents [C, T, H, W] before their normalisation."""
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
