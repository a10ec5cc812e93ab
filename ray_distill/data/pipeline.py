"""Ray Data: a source's entries -> clips -> latents and text embeddings -> cache."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
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
from ray_distill.data.listing import Entry, entries
from ray_distill.data.source import Source
from ray_distill.data.stream import quiet
from ray_distill.data.transform import resize, to_pixels
from ray_distill.data.video import BadClip, read_clip
from ray_distill.models.codec import load_codec
from ray_distill.models.loading import folder_hash
from ray_distill.models.text import TextEncoder

log = logging.getLogger(__name__)
Rows = dict[str, np.ndarray]


def clips(source: Source, listed: Sequence[Entry] | None = None) -> Dataset:
    """The source's videos with decoded ``pixels`` uint8 [T, H, W, 3]; ``error`` says why a clip is skipped, else "".

    One bad clip costs that clip: its pixels are zeros, and the row goes on with its reason.
    """
    videos = [
        entry
        for entry in (entries(source) if listed is None else listed)
        if source.parts[entry.dataset].kind != "prompts"
    ]
    # Its share of a CPU differs from the encoder's, else Ray would fuse both and decode in the encoder's one process.
    return _rows(videos).map(_Decode(source), num_cpus=0.75)


def _rows(listed: Sequence[Entry]) -> Dataset:
    quiet()
    blocks = max(2, min(4 * int(ray.cluster_resources().get("CPU", 1)), 256))
    return ray.data.from_items([asdict(entry) for entry in listed], override_num_blocks=min(blocks, len(listed)))


@dataclass(frozen=True)
class _Decode:
    source: Source

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        source = self.source
        pixels = np.zeros((source.frames, source.height, source.width, 3), dtype=np.uint8)
        error, decoder = row["error"], ""
        if not error:
            try:
                clip = read_clip(row["path"], source.frames, source.stride)
                pixels, decoder = resize(clip.frames, source.height, source.width), clip.decoder
            except BadClip as bad:
                error = str(bad)
        return _told(row) | {"pixels": pixels, "error": error, "decoder": decoder}


def _told(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the cache keeps of an entry, with its id."""
    key = hashlib.blake2b(f"{row['dataset']}\n{row['video']}\n{row['caption']}".encode(), digest_size=8).digest()
    return {"id": int.from_bytes(key, "big") >> 1} | {name: row[name] for name in ("dataset", "video", "caption")}


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
        self._encode(sorted({c for c in rows["caption"][good] if c not in self.captions}))
        for place in np.flatnonzero(good):
            text[place] = self.captions[rows["caption"][place]]
        if good.any() and "pixels" in rows:
            encoded = self.codec.encode(to_pixels(rows["pixels"][good]).to(self.device)).float().cpu().numpy()
            for place, latent in zip(np.flatnonzero(good), encoded, strict=True):
                latents[place] = np.ascontiguousarray(latent).tobytes()
        kept = {column: list(rows[column]) for column in ("id", "dataset", "video", "caption", "error", "decoder")}
        return kept | {"latents": latents, "text": text}

    def _encode(self, captions: list[str]) -> None:
        if captions:
            for caption, tokens in zip(captions, self.text.encode(captions).cpu().numpy(), strict=True):
                length = 1 + int(np.flatnonzero(tokens.any(axis=1)).max(initial=0))
                self.captions[caption] = np.ascontiguousarray(tokens[:length], dtype=np.float32).tobytes()


def cache_key(source: Source, listed: Sequence[Entry], model: Path, max_sequence_length: int) -> str:
    """What the cache's rows are made from: entries, clip settings, codec and text encoder, by content."""
    settings = source.model_dump(include={"frames", "stride", "height", "width", "negative_prompt"})
    often = [(part.repeats, part.probability) for part in source.parts]
    named = [(entry.dataset, entry.video, entry.caption) for entry in listed]
    digest = hashlib.sha256(json.dumps([settings, max_sequence_length, often, named], sort_keys=True).encode())
    for part in ("vae", "text_encoder", "tokenizer"):
        digest.update(folder_hash(model / part).encode())
    return digest.hexdigest()[:16]


def prepare(source: Source, model: Path, max_sequence_length: int) -> Cache:
    """The cache of the source's clips, made unless it is there. Bad clips are counted, named and skipped.

    ``model`` is the pipeline folder that codec and text encoder come from. ValueError where a dataset is missing
    or nothing of the source is left.
    """
    listed = entries(source)
    cache = Cache(source.cache_dir / cache_key(source, listed, model, max_sequence_length))
    if (cache.folder / CARD).is_file():
        return cache
    shutil.rmtree(cache.folder, ignore_errors=True)
    cache.folder.mkdir(parents=True)
    index_of.cache_clear()
    prompts = [entry for entry in listed if source.parts[entry.dataset].kind == "prompts"]
    datasets = [clips(source, listed)] if source.has_videos else []
    datasets += [_rows(prompts).map(lambda row: _told(row) | {"error": "", "decoder": ""})] if prompts else []
    for dataset in datasets:
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
    columns = ["dataset", "video", "caption", "error", "decoder"]
    told = parquet.dataset(cache.folder / "rows").to_table(columns).to_pylist()
    good, bad = ([row for row in told if bool(row["error"]) == failed] for failed in (False, True))
    with (cache.folder / "quarantine.jsonl").open("w") as file:
        for video, error in sorted((row["video"], row["error"]) for row in bad):
            file.write(json.dumps({"video": video, "error": error}) + "\n")
            log.warning("skipped %s", error)
    if not good:
        raise ValueError(
            f"data: none of its {len(told)} clips can be used ({source.title}); "
            f"the reasons are in {cache.folder / 'quarantine.jsonl'}"
        )
    with safe_open(cache.folder / PROMPTS, "np") as prompts:
        latent_shape = json.loads(prompts.metadata()["latent_shape"])
    counts = [sum(row["dataset"] == number for row in good) for number in range(len(source.parts))]
    datasets = zip(source.parts, counts, source.passes(counts), strict=True)
    card = {
        "clips": len(good),
        "skipped": len(bad),
        "decoded_by": dict(Counter(row["decoder"] for row in good if row["decoder"])),
        "captions": len({row["caption"] for row in good}),
        "latent_shape": latent_shape,
        "datasets": [
            {"name": part.name, "place": str(part.place), "rows": count, "passes": often}
            for part, count, often in datasets
        ],
    }
    (cache.folder / CARD).write_text(json.dumps(card, indent=2))
