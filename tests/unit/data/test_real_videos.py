"""Videos that cameras made, decoded by both decoders and prepared."""

import hashlib
from dataclasses import asdict

import numpy as np
import pytest

from ray_distill.data.encoders import Encoders
from ray_distill.data.prepare.encode import EncodeClips
from ray_distill.data.prepare.listing import entries
from ray_distill.data.prepare.stages import Decode, Look
from ray_distill.data.read import video
from ray_distill.data.read.clip import Cut
from ray_distill.data.read.video import read_clip
from ray_distill.data.source import Source
from ray_distill.models.pipeline import Pipeline
from tests.unit.data import real
from tests.unit.data.test_index import DIGITS, columns

NAMES = ["bigbuckbunny", "bikes", "carphone_distorted", "carphone_pristine"]
CUTS = [Cut(4, number=2), Cut(5, fps=16, number=1), Cut(3, stride=7, fps=50)]


@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_decoders_give_equal_frames_bit_for_bit(name, cut, monkeypatch):
    path = str(real.videos()[name])
    monkeypatch.setattr(video, "AHEAD", 1 << 40)  # the 720p file is decord's, too
    by_decord = read_clip(path, cut, preferred="decord")
    by_pyav = read_clip(path, cut)
    assert (by_decord.decoder, by_pyav.decoder) == ("decord", "pyav")
    assert np.array_equal(by_decord.frames, by_pyav.frames)
    assert by_pyav.frames.std() > 20, "natural pictures have contrast"


def test_a_folder_of_them_becomes_latents_and_stays_as_it_was(tmp_path):
    folder = next(iter(real.videos().values())).parent
    before = {path: hashlib.sha256(path.read_bytes()).digest() for path in folder.iterdir()}
    source = Source(
        datasets=[{"videos": folder, "captions": "filename"}],
        **{"frames": 9, "height": 24, "width": 24, "resolution_type": "pixel_area", "resolution": 64},
        **{"clips_per_video": 3, "cache_dir": tmp_path},
    )
    clips = [clip for entry in entries(source) for clip in Look(source, (8, 8))(asdict(entry))]
    # The phone's pixels are 1.094 wide: 176 x 144 of them are shown at 4:3.
    sizes = {clip["caption"]: (clip["height"], clip["width"]) for clip in clips}
    assert sizes == {
        "bigbuckbunny": (48, 88),
        "bikes": (40, 96),
        "carphone distorted": (56, 72),
        "carphone pristine": (56, 72),
    }
    assert len(clips) == 12 and len({clip["id"] for clip in clips}) == 12
    latents, codec = [], EncodeClips(Encoders(Pipeline("wan", DIGITS), 8))
    for decoded in Decode(source)(columns(clips)):
        assert not any(decoded["error"])
        for row, height, width in zip(decoded["pixels"], decoded["height"], decoded["width"], strict=True):
            assert row.shape == (9, height, width, 3) and row.std() > 20
        latents += codec(decoded)["latents"]
    assert len(set(latents)) == 12 and all(np.isfinite(np.frombuffer(one, np.float32)).all() for one in latents)
    assert {path: hashlib.sha256(path.read_bytes()).digest() for path in folder.iterdir()} == before
