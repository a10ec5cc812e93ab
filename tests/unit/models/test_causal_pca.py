"""CausalPatchPCA: the first latent frame is one picture, and none depends on a later frame."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits

from ray_distill.data.read.transform import to_pixels
from ray_distill.errors import ConfigError
from ray_distill.models.causal_pca import CausalPatchPCA
from ray_distill.models.codec import load_codec
from ray_distill.models.parts import check_vae
from ray_distill.models.patch_pca import WEIGHTS
from ray_distill.models.pipeline import Pipeline

sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))
from moving_digits import DIRECTIONS, draw


@pytest.fixture(scope="module")
def clips():
    """[32, 3, 9, 24, 24]"""
    images = load_digits().images[:32]
    return to_pixels(np.stack([draw(image, DIRECTIONS[i % 4]) for i, image in enumerate(images)]))


@pytest.fixture(scope="module")
def codec(clips):
    return CausalPatchPCA.fit(clips, channels=8)


def test_4n_plus_1_frames_are_n_plus_1_latent_frames(codec, clips):
    assert codec.encode(clips).shape == (32, *codec.latent_shape(9, 24, 24)) == (32, 8, 3, 6, 6)
    assert codec.decode(codec.encode(clips)).shape == clips.shape
    assert codec.latent_shape(1, 24, 24)[1] == 1 and codec.latent_shape(33, 48, 48)[1] == 9


@pytest.mark.parametrize("frames", [1, 5])
def test_latents_of_a_clip_begin_with_those_of_its_beginning(codec, clips, frames):
    whole, part = codec.encode(clips), codec.encode(clips[:, :, :frames])
    assert torch.equal(whole[:, :, : part.shape[2]], part)
    assert torch.equal(codec.decode(whole)[:, :, :frames], codec.decode(part))
    changed = clips.clone()
    changed[:, :, frames:] = 0.3
    assert torch.equal(codec.encode(changed)[:, :, : part.shape[2]], part)


def test_both_parts_are_white_over_what_they_were_fitted_on(codec, clips):
    pictures = torch.cat([codec.encode(clips[:, :, [t]]) for t in range(9)])
    for latents in (pictures, codec.encode(clips)[:, :, 1:]):
        rows = latents.movedim(1, -1).reshape(-1, 8)
        torch.testing.assert_close(rows.T.cov(correction=0), torch.eye(8), atol=2e-3, rtol=0)
        torch.testing.assert_close(rows.mean(0), torch.zeros(8), atol=1e-3, rtol=0)


@pytest.mark.parametrize("whitening", [0.0, 0.5])
def test_less_whitening_keeps_ratios_of_the_standard_deviations(codec, clips, whitening):
    """Latents' standard deviations are s^(1 - whitening) / sqrt(mean s^(2 - 2 whitening)) of the components' s."""
    softer = CausalPatchPCA.fit(clips, channels=8, whitening=whitening)
    rows = softer.encode(clips)[:, :, 1:].movedim(1, -1).reshape(-1, 8)
    wanted = codec.rest.scale ** (1 - whitening)
    wanted = wanted / wanted.square().mean().sqrt()
    torch.testing.assert_close(rows.std(0, correction=0), wanted, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(
        softer.decode(softer.encode(clips)), codec.decode(codec.encode(clips)), atol=1e-4, rtol=0
    )


def test_all_channels_lose_nothing():
    pixels = torch.rand(64, 3, 5, 2, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    codec = CausalPatchPCA.fit(pixels, patch=(1, 1, 1), channels=3)
    torch.testing.assert_close(codec.decode(codec.encode(pixels)), pixels, atol=1e-5, rtol=0)


def test_it_survives_its_folder_and_the_check_reads_it(codec, clips, tmp_path):
    codec.save(tmp_path / "vae")
    for again in (load_codec(tmp_path / "vae"), Pipeline("wan", tmp_path).codec, check_vae(tmp_path, "model.path")):
        assert again.stride == (4, 4, 4) and again.channels == 8
        assert torch.equal(again.encode(clips), codec.encode(clips))


def test_it_refuses_what_it_cannot_do(codec, tmp_path):
    with pytest.raises(ValueError, match=r"frames=8: CausalPatchPCA takes 4k\+1 frames; use 5 or 9"):
        codec.latent_shape(8, 24, 24)
    with pytest.raises(ValueError, match="24x22: CausalPatchPCA takes multiples of 4x4"):
        codec.latent_shape(9, 24, 22)
    with pytest.raises(ValueError, match="do not fit"):
        CausalPatchPCA(codec.rest, codec.first)
    codec.save(tmp_path / "vae")
    stored = load_file(tmp_path / "vae" / WEIGHTS)
    del stored["first.mean"]
    save_file(stored, tmp_path / "vae" / WEIGHTS)
    with pytest.raises(ConfigError, match=r"lack 1 of 6 tensors, such as first.mean"):
        check_vae(tmp_path, "model.path")
    (tmp_path / "vae" / "config.json").write_text(json.dumps(codec.config | {"patch": [4, 4, 8]}))
    codec_weights = load_file(tmp_path / "vae" / WEIGHTS) | {"first.mean": torch.zeros(48)}
    save_file(codec_weights, tmp_path / "vae" / WEIGHTS)
    with pytest.raises(ConfigError, match=r"first.mean is \[48\], and its configuration says \[96\]"):
        check_vae(tmp_path, "model.path")
