"""LTX-2's sound: AutoencoderKLLTX2Audio turns tokens into a mel spectrogram, and the vocoder turns that into
samples."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKLLTX2Audio
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder
from torch import Tensor, nn


class LTX2Sound(nn.Module):
    """Decoder of sound. A token is 8 channels x 16 mel bands, channel by channel; a packed token is (z - mean) /
    std."""

    def __init__(self, vae: AutoencoderKLLTX2Audio, vocoder: LTX2Vocoder) -> None:
        super().__init__()
        self.vae, self.vocoder = vae.eval().requires_grad_(False), vocoder.eval().requires_grad_(False)

    @classmethod
    def load(cls, folder: Path) -> LTX2Sound:
        """The ``audio_vae`` and ``vocoder`` of a pipeline's folder, fp32."""
        how = {"torch_dtype": torch.float32, "use_safetensors": True, "local_files_only": True}
        vae = AutoencoderKLLTX2Audio.from_pretrained(folder / "audio_vae", **how)
        return cls(vae, LTX2Vocoder.from_pretrained(folder / "vocoder", **how))

    @property
    def rate(self) -> int:
        return int(self.vocoder.config.output_sampling_rate)

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        """Normalised ``tokens`` [B, C, L] -> fp32 [B, 2, samples] in [-1, 1]."""
        packed = tokens.float().transpose(1, 2) * self.vae.latents_std + self.vae.latents_mean
        bands = self.vae.config.mel_bins // self.vae.mel_compression_ratio
        mel = self.vae.decode(packed.unflatten(2, (-1, bands)).transpose(1, 2), return_dict=False)[0]
        samples: Tensor = self.vocoder(mel)
        return samples.float().clamp(-1, 1)
