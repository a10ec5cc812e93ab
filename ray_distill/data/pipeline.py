"""Ray Data: manifest -> clips -> latents and text embeddings -> cache."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.data
import torch
from pyarrow import dataset as parquet
from ray.data import ActorPoolStrategy, Dataset
from safetensors import safe_open
from safetensors.numpy import save_file

from ray_distill.data.cache import CARD, PROMPTS, Cache, index_of
from ray_distill.data.source import Source
from ray_distill.data.stream import quiet
from ray_distill.data.transform import resize, to_pixels
from ray_distill.data.video import BadClip, read_clip
from ray_distill.models.codec import load_codec
from ray_distill.models.loading import folder_hash
from ray_distill.models.text import TextEncoder

log = logging.getLogger(__name__)
Rows = dict[str, np.ndarray]


def clips(source: Source) -> Dataset:
    """Rows of the manifest with decoded ``pixels`` uint8 [T, H, W, 3]; ``error`` says why a clip is skipped, else "".

    One bad clip costs that clip: its pixels are zeros, and the row goes on with its reason.
    """
    manifest = source.manifest
    if not manifest.is_file():
        raise ValueError(
            f"data.manifest = {manifest}: no such file. It holds JSON lines such as "
            '{"video": "clips/0.mp4", "caption": "a red kite"}; the quick start\'s is made by '
            "python examples/moving_digits.py data/digits"
        )
    with manifest.open() as file:
        known = set(json.loads(next(file, "{}")))
    if not known >= {"video", "caption"}:
        raise ValueError(
            f"data.manifest = {manifest}: each line needs 'video' and 'caption'; the first has {sorted(known)}"
        )
    quiet()
    blocks = max(2, min(4 * int(ray.cluster_resources().get("CPU", 1)), 256))
    rows = ray.data.read_json(str(manifest), lines=True, override_num_blocks=blocks)
    # Its share of a CPU differs from the encoder's, else Ray would fuse both and decode in the encoder's one process.
    return rows.map(_Decode(source), num_cpus=0.75)


@dataclass(frozen=True)
class _Decode:
    source: Source

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        video, caption = row.get("video"), row.get("caption")
        source = self.source
        pixels = np.zeros((source.frames, source.height, source.width, 3), dtype=np.uint8)
        error, decoder = "", ""
        try:
            if not (isinstance(video, str) and isinstance(caption, str)):  # a null may arrive as nan
                raise BadClip(str(video), "the line needs both a video and a caption")
            clip = read_clip(str(self._inside(video)), source.frames, source.stride)
            pixels, decoder = resize(clip.frames, source.height, source.width), clip.decoder
        except BadClip as bad:
            error = str(bad)
        key = hashlib.blake2b(f"{video}\n{caption}".encode(), digest_size=8).digest()
        told = {"id": int.from_bytes(key, "big") >> 1, "video": str(video), "caption": str(caption)}
        return told | {"pixels": pixels, "error": error, "decoder": decoder}

    def _inside(self, video: str) -> Path:
        root = self.source.manifest.parent.resolve()
        path = (root / video).resolve()
        if not path.is_relative_to(root):
            raise BadClip(video, f"it lies outside the manifest's folder {root}")
        return path


class _Encode:
    """An actor with the codec and the text encoder; each distinct caption is encoded once.

    It also writes the cache's prompts file: encoders are loaded here and nowhere else.
    """

    def __init__(self, source: Source, model: Path, max_sequence_length: int, folder: Path) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.codec = load_codec(model / "vae").to(self.device)
        self.text = TextEncoder(model, max_sequence_length).to(self.device)
        self.captions: dict[str, bytes] = {}
        negative = self.text.encode([source.negative_prompt])[0].cpu().numpy()
        shape = self.codec.latent_shape(source.frames, source.height, source.width)
        temporary = folder / f".{PROMPTS}.{os.getpid()}"
        save_file({"negative": negative}, temporary, {"latent_shape": json.dumps(shape)})
        temporary.replace(folder / PROMPTS)

    def __call__(self, rows: Rows) -> dict[str, Any]:
        good = rows["error"] == ""
        latents: list[bytes | None] = [None] * len(good)
        text: list[bytes | None] = [None] * len(good)
        if good.any():
            encoded = self.codec.encode(to_pixels(rows["pixels"][good]).to(self.device)).float().cpu().numpy()
            self._encode(sorted({c for c in rows["caption"][good] if c not in self.captions}))
            for place, latent in zip(np.flatnonzero(good), encoded, strict=True):
                latents[place] = np.ascontiguousarray(latent).tobytes()
                text[place] = self.captions[rows["caption"][place]]
        kept = {column: list(rows[column]) for column in ("id", "video", "caption", "error", "decoder")}
        return kept | {"latents": latents, "text": text}

    def _encode(self, captions: list[str]) -> None:
        if captions:
            for caption, tokens in zip(captions, self.text.encode(captions).cpu().numpy(), strict=True):
                length = 1 + int(np.flatnonzero(tokens.any(axis=1)).max(initial=0))
                self.captions[caption] = np.ascontiguousarray(tokens[:length], dtype=np.float32).tobytes()


def cache_key(source: Source, model: Path, max_sequence_length: int) -> str:
    """What the cache's rows are made from: manifest, clip settings, codec and text encoder, by content."""
    settings = source.model_dump(include={"frames", "stride", "height", "width", "negative_prompt"})
    digest = hashlib.sha256(json.dumps([settings, max_sequence_length], sort_keys=True).encode())
    digest.update(source.manifest.read_bytes())
    for part in ("vae", "text_encoder", "tokenizer"):
        digest.update(folder_hash(model / part).encode())
    return digest.hexdigest()[:16]


def prepare(source: Source, model: Path, max_sequence_length: int) -> Cache:
    """The cache of the source's clips, made unless it is there. Bad clips are counted, named and skipped.

    ``model`` is the pipeline folder that codec and text encoder come from. ValueError where the manifest is missing
    or no clip is left.
    """
    dataset = clips(source)
    cache = Cache(source.cache_dir / cache_key(source, model, max_sequence_length))
    if (cache.folder / CARD).is_file():
        return cache
    shutil.rmtree(cache.folder, ignore_errors=True)
    cache.folder.mkdir(parents=True)
    index_of.cache_clear()
    dataset.map_batches(
        _Encode,
        fn_constructor_args=(source, model, max_sequence_length, cache.folder),
        batch_size=source.encode_batch,
        compute=ActorPoolStrategy(size=source.encoders),
        num_cpus=0.5,
        num_gpus=source.encoder_gpus or None,
    ).write_parquet(str(cache.folder / "rows"), compression="zstd")
    _finish(cache, source)
    return cache


def _finish(cache: Cache, source: Source) -> None:
    """Quarantine list and card."""
    told = parquet.dataset(cache.folder / "rows").to_table(["video", "caption", "error", "decoder"]).to_pylist()
    bad = sorted((row["video"], row["error"]) for row in told if row["error"])
    with (cache.folder / "quarantine.jsonl").open("w") as file:
        for video, error in bad:
            file.write(json.dumps({"video": video, "error": error}) + "\n")
            log.warning("skipped %s", error)
    if len(bad) == len(told):
        raise ValueError(
            f"data.manifest = {source.manifest}: none of its {len(told)} clips can be used; "
            f"the reasons are in {cache.folder / 'quarantine.jsonl'}"
        )
    with safe_open(cache.folder / PROMPTS, "np") as prompts:
        latent_shape = json.loads(prompts.metadata()["latent_shape"])
    good = [row for row in told if not row["error"]]
    card = {
        "clips": len(good),
        "skipped": len(bad),
        "decoded_by": dict(Counter(row["decoder"] for row in good)),
        "captions": len({row["caption"] for row in good}),
        "latent_shape": latent_shape,
        "manifest": str(source.manifest),
    }
    (cache.folder / CARD).write_text(json.dumps(card, indent=2))
