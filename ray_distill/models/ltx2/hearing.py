"""Encode samples into LTX-2's tokens of sound: a log mel spectrogram, then diffusers' AutoencoderKLLTX2Audio.

Diffusers has no spectrogram for this VAE. This one is that of the model's own repository (Lightricks/LTX-2, class
AudioProcessor of ltx-core, function encode_audio of ltx-trainer), which uses torchaudio's MelSpectrogram: a periodic
Hann window of 1024 samples at each multiple of 160, reflected at both ends; magnitudes, not powers; 64 bands from 0 to
8000 Hz on Slaney's scale and with his norm; log(max(mel, 1e-5)). The window's length is that repository's default:
published weights state it in their metadata, which was not read here.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers import AutoencoderKLLTX2Audio

RATE, HOP, WINDOW, BANDS = 16_000, 160, 1024, 64
FLOOR = 1e-5


@lru_cache(maxsize=1)
def filters() -> Tensor:
    """Weights fp32 [WINDOW / 2 + 1, BANDS] from magnitudes to bands."""
    from transformers.audio_utils import mel_filter_bank  # encoders of pictures need no transformers

    bank = mel_filter_bank(WINDOW // 2 + 1, BANDS, 0.0, RATE / 2, RATE, norm="slaney", mel_scale="slaney")
    return torch.from_numpy(bank).float()


def log_mel(samples: Tensor) -> Tensor:
    """``samples`` fp32 [B, 2, n], n > WINDOW / 2, at RATE -> fp32 [B, 2, n // HOP + 1, BANDS]; the frame m is centred
    on the sample m x HOP."""
    window = torch.hann_window(WINDOW, device=samples.device)
    spectrum = torch.stft(samples.flatten(0, 1).float(), WINDOW, HOP, window=window, return_complex=True)
    mel = spectrum.abs().transpose(1, 2) @ filters().to(samples.device)
    return mel.clamp(min=FLOOR).log().unflatten(0, samples.shape[:2])


class LTX2Hearing(nn.Module):
    """Encoder of sound. The VAE is causal: the token i depends on the mel frames up to 4 i."""

    def __init__(self, vae: AutoencoderKLLTX2Audio) -> None:
        super().__init__()
        self.vae = vae.eval().requires_grad_(False)

    @classmethod
    def load(cls, folder: Path) -> LTX2Hearing:
        """The ``audio_vae`` of a pipeline's folder, fp32."""
        from diffusers import AutoencoderKLLTX2Audio  # takes seconds to import, and a family reads the sizes above

        how = {"torch_dtype": torch.float32, "use_safetensors": True, "local_files_only": True}
        return cls(AutoencoderKLLTX2Audio.from_pretrained(folder / "audio_vae", **how))

    @torch.no_grad()
    def encode(self, samples: Tensor, tokens: int) -> Tensor:
        """``samples`` [B, 2, n] -> their first ``tokens`` tokens, (mode - mean) / std, fp32 [B, C, tokens]. A token is
        8 channels x 16 mel bands, channel by channel."""
        mel = log_mel(samples)[:, :, : 4 * tokens - 3]
        mode = self.vae.encode(mel, return_dict=False)[0].mode()
        packed = (mode.transpose(1, 2).flatten(2) - self.vae.latents_mean) / self.vae.latents_std
        return packed.transpose(1, 2)
