"""Encode the first frames of clips, or pictures, into image conditions for Wan's networks."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPImageProcessor, CLIPVisionModel

from ray_distill.models.codec import Codec
from ray_distill.models.spec import Row


class WanImageEncoder(nn.Module):
    """Encoder of images by the pipeline's VAE, and by CLIP where the network reads CLIP's states. ``fields`` names the
    conditions to encode, among first, held and image."""

    def __init__(
        self, codec: Codec, fields: Collection[str], clip: CLIPVisionModel | None = None, processor: Any = None
    ) -> None:
        super().__init__()
        assert ("image" in fields) == (clip is not None), f"{fields}: CLIP encodes the field image, and no other"
        self.fields, self.processor = frozenset(fields), processor
        self.encode_frames = codec.encode  # a function, no submodule: the codec's owner moves the codec
        self.clip = clip and clip.eval().requires_grad_(False)

    @classmethod
    def load(cls, folder: Path, codec: Codec, fields: Collection[str]) -> WanImageEncoder:
        """Load the encoder. ``codec`` is that of ``folder``/vae; CLIP is read from ``image_encoder`` and
        ``image_processor`` where ``fields`` need it."""
        if "image" not in fields:
            return cls(codec, fields)
        clip = CLIPVisionModel.from_pretrained(
            folder / "image_encoder", torch_dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
        processor = CLIPImageProcessor.from_pretrained(folder / "image_processor", local_files_only=True)
        return cls(codec, fields, clip, processor)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> list[Row]:
        """One row of fp32 conditions per clip of ``pixels`` [B, 3, T, H, W] in [-1, 1]. Only the first frame and the
        clip's size are read."""
        conditions: dict[str, Tensor] = {}
        first = pixels[:, :, :1]
        if "first" in self.fields:
            conditions["first"] = self.encode_frames(first)[:, :, 0]
        if "held" in self.fields:
            grey = first.new_zeros(*first.shape[:2], pixels.shape[2] - 1, *first.shape[3:])
            conditions["held"] = self.encode_frames(torch.cat([first, grey], dim=2))
        if self.clip is not None:
            conditions["image"] = self._states(first[:, :, 0])
        return [dict(zip(conditions, row, strict=True)) for row in zip(*conditions.values(), strict=True)]

    def _states(self, pictures: Tensor) -> Tensor:
        """CLIP's hidden states [B, tokens, D] before its last layer, as in diffusers' pipeline."""
        assert self.clip is not None
        bytes_ = ((pictures + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        inputs = self.processor(images=list(bytes_.permute(0, 2, 3, 1).cpu().numpy()), return_tensors="pt")
        states = self.clip(inputs.pixel_values.to(self.clip.device), output_hidden_states=True).hidden_states[-2]
        return states.float()
