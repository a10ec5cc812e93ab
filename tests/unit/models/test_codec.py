import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from sklearn.datasets import load_digits

from ray_distill.data.read.transform import to_pixels
from ray_distill.models import family
from ray_distill.models.causal_pca import CausalPatchPCA
from ray_distill.models.codec import frames_of, load_codec
from ray_distill.models.patch_pca import PatchPCA
from ray_distill.models.wan.codec import WanVAE

EXAMPLES = Path(__file__).parents[3] / "examples"
TEACHER = EXAMPLES / "digits_teacher"
sys.path.insert(0, str(EXAMPLES))
from moving_digits import DIRECTIONS, draw  # noqa: E402


@pytest.fixture(scope="module")
def digits():
    """[64, 3, 9, 24, 24]: the example's clips, without the mp4 round trip."""
    images = load_digits().images[:64]
    return to_pixels(np.stack([draw(image, DIRECTIONS[i % 4]) for i, image in enumerate(images)]))


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return AutoencoderKLWan(
        base_dim=4, z_dim=4, num_res_blocks=1, latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[2.0, 0.5, 1.0, 3.0]
    )


def energy_kept(codec, pixels):
    lost = (codec.decode(codec.encode(pixels)) - pixels).square().sum()
    return 1 - (lost / (pixels - pixels.mean()).square().sum()).item()


def test_shipped_pca_keeps_the_energy_of_digits(digits):
    codec = load_codec(TEACHER / "vae")
    assert isinstance(codec, PatchPCA)
    assert codec.encode(digits).shape == (64, *codec.latent_shape(9, 24, 24)) == (64, 16, 3, 6, 6)
    assert energy_kept(codec, digits) >= 0.97


def test_latents_of_the_fitted_videos_are_white(digits):
    codec = PatchPCA.fit(digits)
    latents = codec.encode(digits).movedim(1, -1).reshape(-1, 16)
    torch.testing.assert_close(latents.T.cov(correction=0), torch.eye(16), atol=2e-3, rtol=0)
    torch.testing.assert_close(latents.mean(0), torch.zeros(16), atol=1e-3, rtol=0)


def test_all_channels_lose_nothing():
    pixels = torch.rand(64, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    codec = PatchPCA.fit(pixels, patch=(1, 2, 2), channels=12)
    torch.testing.assert_close(codec.decode(codec.encode(pixels)), pixels, atol=1e-5, rtol=0)


def test_encode_inverts_decode(digits):
    """decode is the pseudo-inverse: latents whose video stays in range come back."""
    codec = PatchPCA.fit(digits)
    latents = codec.encode(0.3 * digits[:2])
    torch.testing.assert_close(codec.encode(codec.decode(latents)), latents, atol=1e-3, rtol=0)


def test_pca_survives_its_folder_and_its_hash_tells_weights_apart(digits, tmp_path):
    codec = PatchPCA.fit(digits)
    codec.save(tmp_path)
    again = load_codec(tmp_path)
    assert torch.equal(again.encode(digits), codec.encode(digits))


def test_pca_refuses_what_it_cannot_do(digits):
    codec = PatchPCA.fit(digits)
    with pytest.raises(
        ValueError, match=r"\(10, 24, 24\) must be multiples of PatchPCA's patch \(3, 4, 4\), such as \(9, 24, 24\)$"
    ):
        codec.latent_shape(10, 24, 24)
    with pytest.raises(ValueError, match="fewer than channels=60"):
        PatchPCA.fit(digits, channels=60)  # grey videos span 48 of the 144 directions


def test_wan_vae_shapes_and_range(vae):
    codec = WanVAE(vae)
    pixels = torch.rand(2, 3, 5, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = codec.encode(pixels)
    assert latents.shape == (2, *codec.latent_shape(5, 16, 24)) == (2, 4, 2, 2, 3)
    decoded = codec.decode(latents)
    assert decoded.shape == pixels.shape and decoded.abs().max() <= 1


def test_wan_vae_normalises_as_wan_does(vae):
    pixels = torch.rand(1, 3, 5, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, std = (np.array(v)[:, None, None, None] for v in (vae.config.latents_mean, vae.config.latents_std))
    with torch.no_grad():
        raw = vae.encode(pixels).latent_dist.mode()
        video = vae.decode(raw).sample.clamp(-1, 1)
    latents = WanVAE(vae).encode(pixels)
    np.testing.assert_allclose(latents[0], (raw[0].numpy() - mean) / std, atol=1e-5)
    torch.testing.assert_close(WanVAE(vae).decode(latents), video, atol=1e-4, rtol=0)


def test_wan_vae_folder_and_sizes(vae, tmp_path):
    vae.save_pretrained(tmp_path)
    codec = load_codec(tmp_path)
    assert isinstance(codec, WanVAE)
    assert codec.latent_shape(81, 480, 832) == (4, 21, 60, 104)
    with pytest.raises(ValueError, match=r"frames=80: the Wan VAE takes 4k\+1 frames; use 77 or 81"):
        codec.latent_shape(80, 480, 832)
    with pytest.raises(ValueError, match="multiples of 8"):
        codec.latent_shape(81, 481, 832)


FITTING = {  # frames -> the nearest numbers that it takes, below and above
    PatchPCA: {1: (3, 3), 8: (6, 9), 9: (9, 9)},
    CausalPatchPCA: {1: (1, 1), 2: (1, 5), 9: (9, 9), 80: (77, 81)},
    "wan": {1: (1, 1), 80: (77, 81), 81: (81, 81)},
    "ltx": {1: (1, 1), 80: (73, 81), 81: (81, 81)},
    "cogvideox": {1: (1, 1), 49: (49, 49), 53: (49, 57)},
    "hunyuan15": {1: (1, 1), 120: (117, 121), 121: (121, 121)},
}


@pytest.mark.parametrize("codec", FITTING)
def test_the_nearest_numbers_of_frames_are_taken(codec, digits):
    near = FITTING[codec]
    if isinstance(codec, str):
        with torch.device("meta"):
            codec = family(codec).codec.outline({})
    else:
        codec = codec.fit(digits, (3, 4, 4) if codec is PatchPCA else (4, 4, 4), 8)
    rows, columns = codec.stride[1:]
    for frames, pair in near.items():
        assert codec.fitting(frames) == pair
        latent = [codec.latent_shape(each, rows, columns)[1] for each in pair]
        assert [frames_of(codec, each) for each in latent] == list(pair)
        if frames not in pair:
            with pytest.raises(ValueError, match=r"multiples of PatchPCA|use {} or {}".format(*pair)):
                codec.latent_shape(frames, rows, columns)


def test_unknown_codecs_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config.json"):
        load_codec(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "VQGAN"}))
    with pytest.raises(
        ValueError, match="'VQGAN' .* use one of PatchPCA, CausalPatchPCA, AutoencoderKLWan, AutoencoderKLLTXVideo"
    ) as caught:
        load_codec(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_tiles_are_near_the_whole_and_are_the_whole_where_one_is_enough(vae, tmp_path):
    vae.save_pretrained(tmp_path)
    whole, tiled = load_codec(tmp_path), load_codec(tmp_path, tiling=True)
    pixels = torch.rand(1, 3, 5, 320, 256, generator=torch.Generator().manual_seed(0)) * 2 - 1
    one, other = whole.encode(pixels), tiled.encode(pixels)
    assert not torch.equal(one, other)
    assert (one - other).square().mean().sqrt() < 0.1 * one.std()
    few = pixels[..., :64, :64]
    assert torch.equal(whole.encode(few), tiled.encode(few))


def test_a_pca_takes_no_notice_of_tiles(digits):
    assert torch.equal(*(load_codec(TEACHER / "vae", tiling).encode(digits) for tiling in (False, True)))
