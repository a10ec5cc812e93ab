"""A causal student's clip of any length: noise, latents, pixels and file by chunks."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch

from ray_distill.config import ConfigError
from ray_distill.data.read.video import write_chunks, write_clip
from ray_distill.evaluate.latents import NotFinite
from ray_distill.evaluate.sample import ChunkNoise, check_frames, clips_of, enough_chunks, pixel_chunks
from ray_distill.models.causal_pca import CausalPatchPCA
from ray_distill.models.patch_pca import PatchPCA
from ray_distill.types import Chunks, Window
from tests.unit.toys import run_config

VIDEO = torch.rand(8, 3, 9, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize(
    ("frames", "chunks", "latent"),
    [(481, Chunks(3), 123), (481, Chunks(3, True), 121), (81, Chunks(3), 21), (1, Chunks(3), 3), (82, Chunks(1), 22)],
)
def test_the_fewest_chunks_that_make_a_clip(frames, chunks, latent):
    codec = CausalPatchPCA.fit(VIDEO, channels=4)
    assert sum(enough_chunks(codec, frames, chunks)) == latent


@pytest.mark.parametrize("kind", [PatchPCA, CausalPatchPCA])
def test_chunks_decode_to_the_clip(kind):
    codec = kind.fit(VIDEO, channels=4)
    latents = torch.randn(1, 4, 7, 2, 2, generator=torch.Generator().manual_seed(1))
    whole = codec.decode(latents)
    torch.testing.assert_close(torch.cat([*codec.decode_chunks(latents.split([1, 3, 3], dim=2))], dim=2), whole)
    parts = [*pixel_chunks(codec, latents.split(1, dim=2), 17, "a test")]
    assert sum(map(len, parts)) == 17 and all(part.dtype == np.uint8 for part in parts)


def test_a_chunk_that_is_not_finite_ends_the_clip():
    codec = CausalPatchPCA.fit(VIDEO, channels=4)
    good, bad = torch.zeros(1, 4, 1, 2, 2), torch.full((1, 4, 1, 2, 2), torch.nan)
    made = pixel_chunks(codec, [good, bad], 5, "a test")
    assert len(next(made)) == 1
    with pytest.raises(NotFinite, match="chunk 1"):
        next(made)


def test_noise_belongs_to_step_and_frame():
    cpu = torch.device("cpu")
    noise = ChunkNoise(3, (4, 9, 2, 2), cpu)
    one, again = noise(-1, slice(3, 6)), noise(-1, slice(3, 6))
    assert one.shape == (1, 4, 3, 2, 2) and torch.equal(one, again)
    others = noise(0, slice(3, 6)), noise(-1, slice(6, 9)), ChunkNoise(4, (4, 9, 2, 2), cpu)(-1, slice(3, 6))
    assert not any(torch.equal(one, other) for other in others)


def test_a_file_of_chunks_is_that_of_the_clip(tmp_path):
    video = np.random.default_rng(0).integers(0, 256, (7, 32, 48, 3), dtype=np.uint8)
    write_clip(tmp_path / "whole.mp4", video, 8)
    write_chunks(tmp_path / "chunks.mp4", iter([video[:3], video[3:]]), 8)
    assert (tmp_path / "whole.mp4").read_bytes() == (tmp_path / "chunks.mp4").read_bytes()
    with av.open(str(tmp_path / "chunks.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 7


@pytest.mark.parametrize(
    ("chunks", "frames", "message"),
    [(None, 9, "makes whole clips"), (Chunks(3), 10, "no window"), (Chunks(3), 0, "use 1 or more")],
)
def test_frames_that_a_student_cannot_make_are_refused(tmp_path, chunks, frames, message):
    config = run_config(tmp_path)
    with pytest.raises(ConfigError, match=message):
        check_frames(config, chunks, frames)
    check_frames(config, Chunks(3, window=Window(9)), 481)
    check_frames(config, Chunks(3), 9)


def test_one_clip_is_a_file_and_several_are_files_of_a_folder():
    assert clips_of(["a"], [3], None) == [("a", 3, Path("sample.mp4"))]
    several = clips_of(["a kite", "../b"], [0, 7], Path("out"))
    assert [str(clip.out) for clip in several] == [
        "out/00_a_kite_seed0.mp4",
        "out/01_a_kite_seed7.mp4",
        "out/02__b_seed0.mp4",
        "out/03__b_seed7.mp4",
    ]
    with pytest.raises(ConfigError, match="--out a.mp4: 2 videos need a folder"):
        clips_of(["a"], [0, 1], Path("a.mp4"))
    for out in ("run.yaml", "a.gif", "new/folder/", ".", "/"):  # nor is a file of another kind overwritten
        with pytest.raises(ConfigError, match=r"one video is an mp4 file, such as .*\.mp4"):
            clips_of(["a"], [0], Path(out))
    with pytest.raises(ConfigError, match="--seed 3 1 3: a seed stands twice"):
        clips_of(["a"], [3, 1, 3], None)
    for prompts in ([], [" "], ["a", ""]):
        with pytest.raises(ConfigError, match="sample needs a prompt"):
            clips_of(prompts, [0], None)
