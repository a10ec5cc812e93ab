"""Encode the first frames of clips, or pictures, into the image conditions of HunyuanVideo 1.5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import SiglipImageProcessor, SiglipVisionModel

from ray_distill.models.codec import Codec
from ray_distill.models.spec import Row


class HunyuanImageEncoder(nn.Module):
    """The pipeline's VAE and its SigLIP.

    It gives ``first`` [C, h, w], latents of the first frame, and ``image`` [tokens, D], SigLIP's states of it.
    """

    def __init__(self, codec: Codec, siglip: SiglipVisionModel, processor: Any) -> None:
        super().__init__()
        self.encode_frames = codec.encode  # no submodule: the codec's owner moves it
        self.siglip, self.processor = siglip.eval().requires_grad_(False), processor

    @classmethod
    def load(cls, folder: Path, codec: Codec) -> HunyuanImageEncoder:
        """``codec`` is that of ``folder``/vae."""
        siglip = SiglipVisionModel.from_pretrained(
            folder / "image_encoder", dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
        processor = SiglipImageProcessor.from_pretrained(folder / "feature_extractor", local_files_only=True)
        return cls(codec, siglip, processor)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> list[Row]:
        """The fp32 conditions, a row for each clip, of ``pixels`` [B, 3, T, H, W] in [-1, 1]; it reads the first
        frame."""
        frames = pixels[:, :, :1]
        states = self._states(frames[:, :, 0])
        rows = zip(self.encode_frames(frames), states, strict=True)
        return [{"first": first[:, 0], "image": image} for first, image in rows]

    def _states(self, pictures: Tensor) -> Tensor:
        """SigLIP's last hidden states [B, tokens, D], as the pipeline takes them of a picture."""
        bytes_ = ((pictures + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        images = [Image.fromarray(picture) for picture in bytes_]
        inputs = self.processor.preprocess(images=images, do_resize=True, return_tensors="pt", do_convert_rgb=True)
        return self.siglip(inputs.pixel_values.to(self.siglip.device)).last_hidden_state.float()
