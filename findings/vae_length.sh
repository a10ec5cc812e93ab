#!/usr/bin/env bash
# Causal video VAEs: how does the memory of a decode grow with the clip's length?
# Versions: diffusers 0.42.1, torch 2.13.0 (published widths, float32, tensors without data: no weights, no GPU).
# Guess: hardly, for each of them: a causal decoder goes over the clip in pieces, and keeps only the finished pixels.
# Seen: as guessed for Wan 2.1 and CogVideoX. LTX-2 and HunyuanVideo 1.5 decode all frames at once: from 5 to 21 latent frames their
# peaks grow more than fourfold. For 121 frames of 480 x 848 HunyuanVideo 1.5 has a peak of 141 GiB, beside 4.7 of weights. Slicing
# divides a batch, and changes nothing for one clip; tiling (enable_tiling) is what helps.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check diffusers==0.42.1 torch==2.13.0 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import weakref

import diffusers
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GIB, ROWS, COLUMNS = 1 << 30, 2, 3
VAES = {  # name: (VAE, latent channels, rows x columns of 480p in latents, true where 21 latent frames take much more than 5)
    "Wan 2.1": (lambda: diffusers.AutoencoderKLWan(), 16, 60 * 104, False),
    "CogVideoX 5B": (
        lambda: diffusers.AutoencoderKLCogVideoX(
            latent_channels=16, block_out_channels=(128, 256, 256, 512), layers_per_block=3
        ), 16, 60 * 90, False
    ),
    "LTX-2": (lambda: diffusers.AutoencoderKLLTX2Video(), 128, 16 * 24, True),
    "HunyuanVideo 1.5": (lambda: diffusers.AutoencoderKLHunyuanVideo15(), 32, 30 * 53, True),
}


class Peak(TorchDispatchMode):
    """The most bytes of new storages that live at once."""

    def __init__(self, old):
        super().__init__()
        self.now = self.most = 0
        self.seen = weakref.WeakSet(t.untyped_storage() for t in old)

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        out = op(*args, **(kwargs or {}))
        for tensor in (t for t in tree_leaves(out) if isinstance(t, torch.Tensor)):
            storage = tensor.untyped_storage()
            if storage not in self.seen:
                self.seen.add(storage)
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self.free, storage.nbytes())
        return out

    def free(self, size):
        self.now -= size


def peak(make, channels, frames, slicing=False):
    """Peak of a decode of ``frames`` latent frames of a small picture."""
    with FakeTensorMode(), torch.no_grad():
        vae = make().eval()
        if slicing:
            vae.enable_slicing()
        with Peak([*vae.parameters(), *vae.buffers()]) as counter:
            vae.decode(torch.empty(1, channels, frames, ROWS, COLUMNS))
    return counter.most


print(f"diffusers {diffusers.__version__}, torch {torch.__version__}")
for name, (make, channels, area, grows) in VAES.items():
    short, long = (peak(make, channels, frames) for frames in (5, 21))
    scale = area / (ROWS * COLUMNS) / GIB  # each layer's tensors have the picture's area
    print(f"{name}: 5 latent frames of 480p {short * scale:.1f} GiB, 21 {long * scale:.1f}, a factor of {long / short:.2f}")
    assert (long > 4 * short) == grows and (long < 1.1 * short) == (not grows)
make, channels, area, _ = VAES["HunyuanVideo 1.5"]
whole, sliced = (peak(make, channels, 31, slicing) * area / (ROWS * COLUMNS) / GIB for slicing in (False, True))
print(f"HunyuanVideo 1.5: 121 frames of 480 x 848 {whole:.0f} GiB, with slicing {sliced:.0f}")
assert whole == sliced and 138 < whole < 144
PYTHON
