"""Ray Data: manifest -> clips -> latents and text embeddings -> cache."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.data
import torch
from ray.data import ActorPoolStrategy, Dataset
from safetensors.numpy import save_file

from ray_distill.data.cache import CARD, Cache
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
    quiet()
    blocks = max(2, min(4 * int(ray.cluster_resources().get("CPU", 1)), 256))
    rows = ray.data.read_json(str(manifest), lines=True, override_num_blocks=blocks)
    known = set(rows.schema().names)
    if "caption" not in known or "video" not in known:
        raise ValueError(
            f"data.manifest = {manifest}: each line needs 'video' and 'caption'; found {', '.join(sorted(known))}"
        )
    return rows.map(_Decode(source))


@dataclass(frozen=True)
class _Decode:
    source: Source

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        video, caption = row.get("video"), row.get("caption")
        source = self.source
        pixels = np.zeros((source.frames, source.height, source.width, 3), dtype=np.uint8)
        error, decoder = "", ""
        try:
            if not video or not isinstance(caption, str):
                raise BadClip(str(video), "the line needs both a video and a caption")
            clip = read_clip(str(self._inside(video)), source.frames, source.stride)
            pixels, decoder = resize(clip.frames, source.height, source.width), clip.decoder
        except BadClip as bad:
            error = str(bad)
        key = hashlib.blake2b(json.dumps([video, caption]).encode(), digest_size=8).digest()
        number = int.from_bytes(key, "big") >> 1
        return {"id": number, "video": video, "caption": caption, "pixels": pixels, "error": error, "decoder": decoder}

    def _inside(self, video: str) -> Path:
        root = self.source.manifest.parent.resolve()
        path = (root / video).resolve()
        if not path.is_relative_to(root):
            raise BadClip(video, f"it lies outside the manifest's folder {root}")
        return path


class _Encode:
    """An actor with the codec and the text encoder; each distinct caption is encoded once."""

    def __init__(self, model: Path, max_sequence_length: int) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.codec = load_codec(model / "vae").to(device)
        self.text = TextEncoder(model, max_sequence_length).to(device)
        self.device = device
        self.captions: dict[str, bytes] = {}

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
        log.info("cache %s: %d clips, made before", cache.folder, cache.card["clips"])
        return cache
    shutil.rmtree(cache.folder, ignore_errors=True)
    cache.folder.mkdir(parents=True)
    dataset.map_batches(
        _Encode,
        fn_constructor_args=(model, max_sequence_length),
        batch_size=source.encode_batch,
        compute=ActorPoolStrategy(size=source.encoders),
        num_gpus=source.encoder_gpus or None,
    ).write_parquet(str(cache.folder / "rows"), compression="zstd")
    _finish(cache, source, model, max_sequence_length)
    return cache


def _finish(cache: Cache, source: Source, model: Path, max_sequence_length: int) -> None:
    """Quarantine list, negative prompt, card."""
    rows = ray.data.read_parquet(str(cache.folder / "rows"), columns=["video", "caption", "error", "decoder"])
    told = rows.to_pandas()
    bad = told[told["error"] != ""]
    with (cache.folder / "quarantine.jsonl").open("w") as file:
        for video, error in sorted(zip(bad["video"].map(str), bad["error"], strict=True)):
            file.write(json.dumps({"video": video, "error": error}) + "\n")
            log.warning("skipped %s", error)
    if len(bad) == len(told):
        raise ValueError(
            f"data.manifest = {source.manifest}: none of its {len(told)} clips can be used; "
            f"the reasons are in {cache.folder / 'quarantine.jsonl'}"
        )
    # The driver may be a laptop or a login node: encoders are loaded where encoders run.
    encode_once = ray.remote(num_gpus=source.encoder_gpus)(_encode_once)
    negative, latent_shape = ray.get(encode_once.remote(source, model, max_sequence_length))
    save_file({"negative": negative}, cache.folder / "prompts.safetensors")
    card = {
        "clips": len(told) - len(bad),
        "skipped": len(bad),
        "decoded_by": told["decoder"][told["decoder"] != ""].value_counts().to_dict(),
        "captions": int(told["caption"][told["error"] == ""].nunique()),
        "latent_shape": latent_shape,
        "manifest": str(source.manifest),
    }
    (cache.folder / CARD).write_text(json.dumps(card, indent=2))
    log.info("cache %s: %d clips kept, %d skipped", cache.folder, card["clips"], card["skipped"])


def _encode_once(source: Source, model: Path, max_sequence_length: int) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    text = TextEncoder(model, max_sequence_length)
    shape = load_codec(model / "vae").latent_shape(source.frames, source.height, source.width)
    return text.encode([source.negative_prompt])[0].numpy(), shape
