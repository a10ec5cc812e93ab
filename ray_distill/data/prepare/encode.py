"""Ray Data actors that encode: pixels -> latents and the fields of a clip; captions -> the fields of a caption."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch

from ray_distill.collector import leave_at_once
from ray_distill.data.encoders import Encoders
from ray_distill.data.read.transform import to_pixels
from ray_distill.models.conditions import to_bytes
from ray_distill.models.light_diffusers import hidden
from ray_distill.models.packed import pack
from ray_distill.models.spec import of_captions, of_clips

Batch = Mapping[str, np.ndarray]


class EncodeClips:
    """An actor with the codec: pixels -> ``latents`` and the fields of a clip; pixels and samples -> packed ``latents``
    and ``heard``, the share of the clip in which its file has sound. Elsewhere the clip is silent.

    A GPU encodes clips of one shape together. A CPU encodes them one by one: a batch sums in another order, so that the
    seventh digit of a row would depend on the other rows of its batch.
    """

    def __init__(self, models: Encoders) -> None:
        leave_at_once()
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.codec = models.load_codec().to(self.device)
        self.fields, self.image = of_clips(models.fields), models.image_encoder(self.codec)
        self.sound = models.sound_encoder()
        for encoder in (self.image, self.sound):
            if encoder is not None:
                encoder.to(self.device)

    def __call__(self, rows: Batch) -> dict[str, Any]:
        # Empty bytes, not None: a block of only broken clips would have another schema.
        encoded: dict[str, list[Any]] = {name: [b""] * len(rows["id"]) for name in ("latents", *self.fields)}
        if self.sound is not None:
            encoded["heard"] = [0.0] * len(rows["id"])
        shapes: dict[tuple[int, ...], list[int]] = {}
        for place in np.flatnonzero(rows["error"] == "").tolist():
            shapes.setdefault(rows["pixels"][place].shape, []).append(place)
        for places in shapes.values():
            size = len(places) if self.device == "cuda" else 1
            for some in (places[first : first + size] for first in range(0, len(places), size)):
                pixels = to_pixels(np.stack([rows["pixels"][place] for place in some])).to(self.device)
                samples = None if self.sound is None else np.stack([rows["samples"][place] for place in some])
                for place, row in zip(some, self._rows(pixels, samples), strict=True):
                    for name, value in row.items():
                        encoded[name][place] = value
        return {"id": list(rows["id"]), "error": list(rows["error"])} | encoded

    def _rows(self, pixels: torch.Tensor, samples: np.ndarray | None) -> list[dict[str, Any]]:
        latents = self.codec.encode(pixels).float().cpu()
        c, t, h, w = latents.shape[1:]
        if self.sound is not None and samples is not None:
            tokens = self.codec.latent_shape(*pixels.shape[2:])[4]
            audible = torch.from_numpy(np.nan_to_num(samples)).to(self.device)
            latents = pack(latents, self.sound.encode(audible, tokens).float().cpu())
        rows: list[dict[str, Any]] = [{"latents": np.ascontiguousarray(latent).tobytes()} for latent in latents.numpy()]
        if samples is not None:
            for row, heard in zip(rows, 1 - np.isnan(samples[:, 0]).mean(axis=1), strict=True):
                row["heard"] = float(heard)
        if self.image is not None:
            for row, fields in zip(rows, self.image.encode(pixels), strict=True):
                row |= {n: to_bytes(n, fields[n], field, (c, t, h, w)) for n, field in self.fields.items()}
        return rows


class EncodePictures:
    """An actor with the codec and the image encoder: the pixels of a picture -> the fields of a clip that begins with
    it. It encodes pictures one by one."""

    def __init__(self, models: Encoders) -> None:
        leave_at_once()
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.codec = models.load_codec().to(self.device)
        image = models.image_encoder(self.codec)
        assert image is not None, "pictures are encoded where a family has fields of clips"
        self.fields, self.image = of_clips(models.fields), image.to(self.device)
        self.as_shown = models.pipeline.of.given_picture

    def __call__(self, rows: Batch) -> dict[str, Any]:
        encoded = {name: [b""] * len(rows["id"]) for name in self.fields}
        for place in np.flatnonzero(rows["error"] == "").tolist():
            frames = int(rows["frames"][place])
            for name, value in self.row(rows["pixels"][place], frames).items():
                encoded[name][place] = value
        return {"id": list(rows["id"]), "error": list(rows["error"])} | encoded

    def row(self, picture: np.ndarray, frames: int) -> dict[str, bytes]:
        """The stored fields of a clip of ``frames`` frames that begins with ``picture``, uint8 [1, H, W, 3]."""
        pixels = to_pixels(self.as_shown(picture)[None]).to(self.device).expand(-1, -1, frames, -1, -1)
        latent = self.codec.latent_shape(*pixels.shape[2:])
        (fields,) = self.image.encode(pixels)
        return {name: to_bytes(name, fields[name], field, latent) for name, field in self.fields.items()}


class EncodeText:
    """An actor with the text encoder: captions -> their fields, without padding; a CPU encodes them one by one, as
    clips.

    ``length`` counts the stored tokens of a caption, and ``tokens`` all its tokens, including those cut off. ``alone``:
    true where the process has no other work.
    """

    def __init__(self, models: Encoders, alone: bool = False) -> None:
        leave_at_once()
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.most, self.fields = models.max_sequence_length, of_captions(models.fields)
        # A quarter of the imports' time; no text encoder needs them.
        with hidden("peft", "scipy") if alone else nullcontext():
            text = models.text_encoder()
        self.text = text.to(self.device)

    def __call__(self, rows: Batch) -> dict[str, Any]:
        captions = list(rows["caption"])
        batches = [captions] if self.device == "cuda" else [[caption] for caption in captions]
        encoded = [row for batch in batches for row in self.text.encode(batch)]
        stored = {n: [to_bytes(n, row[n], field) for row in encoded] for n, field in self.fields.items()}
        tokens = self.text.tokens(captions)
        lengths = [min(count, self.most) for count in tokens]
        return {"id": list(rows["id"]), "error": [""] * len(encoded), **stored, "length": lengths, "tokens": tokens}


class CountTokens:
    """An actor with the tokenizer: clips with their text embedding -> the same clips, with all ``tokens`` of the
    caption, including those cut off. An embedding of another number of tokens belongs to another text or tokenizer: an
    ``error``. A caption that the run's cleaning changes loses its ``embedding_id``, since nothing tells the cleaning
    that the embedding was made after; it is encoded anew."""

    def __init__(self, models: Encoders) -> None:
        leave_at_once()
        from ray_distill.models.text import T5Text  # transformers takes seconds, and encoders of clips need none

        text = models.text_encoder()
        assert isinstance(text, T5Text), "checks.latents refuses embeddings for other families"
        self.text, self.most = text, models.max_sequence_length

    def __call__(self, rows: Batch) -> dict[str, Any]:
        columns = {name: list(values) for name, values in rows.items()}
        places = [place for place, id_ in enumerate(columns["embedding_id"]) if id_]
        captions = [columns["caption"][place] for place in places]
        if not captions:
            return columns
        counts, cleaned = self.text.tokens(captions), self.text.cleaned(captions)
        for place, count, changed in zip(places, counts, cleaned, strict=True):
            stored, needed = int(columns["tokens"][place]), min(count, self.most)
            columns["tokens"][place] = count
            if changed:
                columns["embedding_id"][place] = ""
            elif stored != needed:
                columns["error"][place] = (
                    f"{columns['path'][place]}: its text embedding has {stored} tokens, and its caption {needed} "
                    "by this run's tokenizer and model.max_sequence_length"
                )
        return columns
