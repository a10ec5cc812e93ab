"""Pipelines with one of our own codecs, which diffusers does not know."""

import json
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel

from ray_distill.models.causal_pca import CausalPatchPCA
from ray_distill.models.patch_pca import PatchPCA


def with_codec(folder: Path, base: Path, codec: type[CausalPatchPCA | PatchPCA] = CausalPatchPCA) -> Path:
    """Copy ``base`` with a ``codec`` fitted to noise, with as many channels as its transformer makes; returns
    ``folder``."""
    folder.mkdir()
    for part in base.iterdir():
        if part.name not in ("vae", "model_index.json"):
            (folder / part.name).symlink_to(part)
    video = torch.rand(2, 3, 12, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    channels = WanTransformer3DModel.load_config(base / "transformer")["out_channels"]
    if codec is CausalPatchPCA:
        CausalPatchPCA.fit(torch.cat([video[:, :, :1], video], 2), (4, 4, 4), channels).save(folder / "vae")
    else:
        PatchPCA.fit(video, (3, 4, 4), channels).save(folder / "vae")
    index = json.loads((base / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"vae": [None, None]}))
    return folder
