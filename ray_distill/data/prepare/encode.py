"""Ray Data actors that hold a model: pixels to latents, captions to embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ray_distill.data.read.transform import to_pixels
from ray_distill.models.codec import load_codec

Batch = Mapping[str, np.ndarray]


class EncodeClips:
    """An actor with the codec: pixels -> ``latents``, on a GPU clips of one shape at a time.

    On a CPU one by one: sums over a batch go in another order, and a row would depend, in its seventh digit, on those
    that it came with."""

    def __init__(self, model: Path) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.codec = load_codec(model / "vae").to(self.device)

    def __call__(self, rows: Batch) -> dict[str, Any]:
        latents = [b""] * len(rows["id"])  # no None: a block of broken clips alone would have another schema
        shapes: dict[tuple[int, ...], list[int]] = {}
        for place in np.flatnonzero(rows["error"] == "").tolist():
            shapes.setdefault(rows["pixels"][place].shape, []).append(place)
        for places in shapes.values():
            size = len(places) if self.device == "cuda" else 1
            for some in (places[first : first + size] for first in range(0, len(places), size)):
                pixels = to_pixels(np.stack([rows["pixels"][place] for place in some]))
                encoded = self.codec.encode(pixels.to(self.device)).float().cpu().numpy()
                for place, latent in zip(some, encoded, strict=True):
                    latents[place] = np.ascontiguousarray(latent).tobytes()
        return {"id": list(rows["id"]), "error": list(rows["error"]), "latents": latents}


class EncodeText:
    """An actor with the text encoder: captions -> ``text``, without the zeros behind the last token, on a CPU one by
    one, as clips are; ``tokens`` is how many a caption has, those that were cut included."""

    def __init__(self, model: Path, max_sequence_length: int, int8: bool) -> None:
        from ray_distill.models.text import TextEncoder  # seconds of transformers, which EncodeClips does without

        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.text = TextEncoder(model, max_sequence_length, int8).to(self.device)

    def __call__(self, rows: Batch) -> dict[str, Any]:
        captions = list(rows["caption"])
        batches = [captions] if self.device == "cuda" else [[caption] for caption in captions]
        encoded = [row for batch in batches for row in self.text.encode(batch).cpu().numpy()]
        lengths = [1 + int(np.flatnonzero(tokens.any(axis=1)).max(initial=0)) for tokens in encoded]
        text = [np.ascontiguousarray(t[:length]).tobytes() for t, length in zip(encoded, lengths, strict=True)]
        tokens = self.text.tokens(captions)
        return {"id": list(rows["id"]), "error": [""] * len(text), "text": text, "length": lengths, "tokens": tokens}
