"""Digits with sound: the readers read what the generator made, also behind the codecs, and disagreement shows."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))
import digits_with_sound as toy


@pytest.fixture(scope="module")
def clips():
    return toy.make(160, seed=0)[0]


@pytest.fixture(scope="module")
def codecs(clips):
    return toy.Codecs.fit(clips)


def test_directions_are_independent_of_the_prompt_and_balanced(clips):
    counts = torch.zeros(10, 4).index_put((clips.digits, clips.directions), torch.ones(160), accumulate=True)
    assert (counts == 4).all()


def test_readers_read_picture_and_sound(clips, codecs):
    for pixels, mel in ((clips.pixels, clips.mel), codecs.decode(codecs.encode(clips))):
        assert torch.equal(toy.seen_direction(pixels), clips.directions)
        assert torch.equal(toy.heard_direction(mel), clips.directions)
        assert (toy.seen_digit(pixels) == clips.digits).float().mean() > 0.97


def test_swapped_sound_agrees_by_chance_alone(clips):
    agreement = (toy.seen_direction(clips.pixels) == toy.heard_direction(clips.mel.roll(1, 0))).float().mean()
    assert agreement < 0.45


def test_codecs_keep_most_and_are_the_same_after_a_round_trip(clips, codecs, tmp_path):
    latents = codecs.encode(clips)
    assert latents.shape == (160, 16, 41, 1, 1)
    for decoded, value in zip(codecs.decode(latents), (clips.pixels, clips.mel), strict=True):
        assert (decoded - value).square().sum() < 0.15 * (value - value.mean()).square().sum()
    codecs.save(tmp_path)
    assert torch.equal(toy.Codecs.load(tmp_path).encode(clips), latents)
