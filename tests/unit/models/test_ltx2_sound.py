"""The sound of clips' own files on its way into LTX-2's packed rows: spectrogram, tokens, preparation, a step."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ray_distill.data.encoders import Encoders
from ray_distill.data.feed.stream import Stream
from ray_distill.data.prepare import beside
from ray_distill.data.prepare.beside import Filling
from ray_distill.data.prepare.encode import EncodeClips
from ray_distill.data.prepare.index import summary
from ray_distill.data.prepare.silence import SILENT
from ray_distill.data.prepare.stages import Decode
from ray_distill.errors import ConfigError
from ray_distill.methods import DMD
from ray_distill.models.ltx2.hearing import BANDS, HOP, RATE, LTX2Hearing, filters, log_mel
from ray_distill.models.ltx2.network import LTX2Denoiser
from ray_distill.models.packed import modalities, picture, sound, tensor_shape
from ray_distill.models.pipeline import Pipeline
from ray_distill.rng import StatelessRng
from ray_distill.train.driver.checks.clips import check_sound
from ray_distill.types import Batch
from tests.unit.data.heard import FPS, click, write
from tests.unit.data.test_cache import delivered
from tests.unit.data.test_index import columns, make, source
from tests.unit.toys import run_config

sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))
import tiny_ltx2

FRAMES, HEIGHT, WIDTH, TOKENS = 17, 32, 32, 16
LATENT = (32, 3, 1, 1, 18)
SIZE = {"frames": FRAMES, "height": HEIGHT, "width": WIDTH, "fps": 24}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny_ltx2")
    tiny_ltx2.main([str(folder)])
    return folder


class Blank:
    """Captions without content, since loading Gemma for each preparation would take most of the time."""

    def to(self, device):
        return self

    def encode(self, prompts):
        return [dict.fromkeys(("text", "audio_text"), torch.zeros(TOKENS, 16)) for _ in prompts]

    def tokens(self, prompts):
        return [1] * len(prompts)


@pytest.fixture
def models(folder, monkeypatch):
    monkeypatch.setattr(Encoders, "text_encoder", lambda models: Blank())
    return Encoders(Pipeline("ltx2", folder), TOKENS)


def test_the_spectrogram_is_that_of_torchaudio():
    """Oracle 46: a tone of 440 Hz; and a click amid a window has the same magnitude at each frequency."""
    tone = 0.5 * torch.sin(2 * torch.pi * 440 * torch.arange(RATE) / RATE)
    mel = log_mel(tone.expand(1, 2, -1))
    assert mel.shape == (1, 2, RATE // HOP + 1, BANDS) and torch.equal(mel[:, 0], mel[:, 1])
    bands = mel[0, 0, 50, [5, 8, 9, 10, 11, 12, 30, 63]].tolist()
    assert bands == pytest.approx([-6.6939, 1.0858, 0.9799, -3.5017, -5.6024, -6.7087, -11.1637, -11.5129], abs=1e-3)
    assert mel.min().item() == pytest.approx(math.log(1e-5)) and mel[0, 0, 50].argmax() == 8
    impulse = torch.zeros(1, 2, RATE)
    impulse[..., 50 * HOP] = 0.9
    heard = log_mel(impulse)[0, 0]
    torch.testing.assert_close(heard[50], (0.9 * filters().sum(0)).log(), atol=1e-5, rtol=0)
    # Each band's weights have the area 1 over frequency, whose bins are 15.625 Hz apart.
    torch.testing.assert_close(filters().sum(0)[20:] * 15.625, torch.ones(BANDS - 20), atol=0.02, rtol=0)
    assert heard.sum(1).argmax() == 50 and (heard[[46, 54]] == math.log(1e-5)).all()


def test_a_token_hears_what_comes_before_it(folder):
    """The token i is made of the mel frames up to 4 i, and a click changes no token before its own."""
    encoder = LTX2Hearing.load(folder)
    quiet, n = torch.from_numpy(click(FRAMES / FPS, None, RATE))[None], round(FRAMES / FPS * RATE)
    tokens = encoder.encode(quiet, 18)
    assert quiet.shape[2] == n and tokens.shape == (1, 32, 18) and tokens.isfinite().all()
    torch.testing.assert_close(encoder.encode(quiet, 12), tokens[:, :, :12])
    mode = encoder.vae.encode(log_mel(quiet)[:, :, :69]).latent_dist.mode()
    by_band = (tokens.transpose(1, 2) * 1.5 - 0.2).unflatten(2, (2, 16)).transpose(1, 2)
    torch.testing.assert_close(by_band, mode, atol=1e-5, rtol=0)
    for frame in (3, 10, 14):
        loud = encoder.encode(torch.from_numpy(click(FRAMES / FPS, frame / FPS, RATE))[None], 18)
        first = int((loud - tokens).abs().amax((0, 1)).gt(1e-4).nonzero()[0])
        assert abs(first - 25 * frame / FPS) <= 1


CLIPS = {
    "stereo.mp4": (click(1, 10 / FPS), {}),
    "mono.mp4": (click(1, 10 / FPS, channels=1), {}),
    "none.mp4": (None, {}),
    "shorter.mp4": (click(0.5, 10 / FPS), {}),
    "longer.mp4": (click(3, 10 / FPS), {}),
    "variable.mkv": (
        click(1.5, 0.4, 22_050, 1),
        {"codec": "flac", "rate": 22_050, "milliseconds": [*range(0, 400, 40), *range(400, 1400, 50)]},
    ),
}


def clips(folder, *names):
    (folder / "in").mkdir()
    for name in names or CLIPS:
        heard, how = CLIPS[name]
        write(folder / "in" / name, heard, **how)
    return folder


def test_files_become_rows_of_picture_and_sound_in_step(tmp_path, models):
    """48 kHz stereo, mono, none, shorter and longer than the picture, variable rates."""
    asked = source(clips(tmp_path), **SIZE)
    cache, (_, encoded) = make(asked, models)
    assert len(encoded) == 6 and set(cache.shapes(range(6))) == {LATENT}
    card = cache.card
    assert (card["clips"], card["skipped"], card["silent"], card["partly_silent"]) == (6, 0, 1, 1)
    assert summary(card).startswith("6 kept, 0 left out, 2 silent at least in part")
    named = [json.loads(line) for line in (cache.folder / SILENT).read_text().splitlines()]
    assert {clip["file"]: clip["heard"] for clip in named} == {
        "none.mp4": 0,
        "shorter.mp4": pytest.approx(0.72, abs=0.03),
    }
    rows = cache.rows(range(6), ["latents", "shape", "video"])
    latents = dict(zip((row["video"] for row in rows), torch.from_numpy(cache.latents(rows).copy()), strict=True))
    heard = {name: sound(x[None], LATENT)[0] for name, x in latents.items()}
    silence = LTX2Hearing.load(models.path).encode(torch.zeros(1, 2, round(FRAMES / FPS * RATE)), 18)[0]
    torch.testing.assert_close(heard["none.mp4"], silence)
    # The VAE is causal, and sees silence from half a second on: the last tokens are those of silence again.
    assert not torch.allclose(heard["shorter.mp4"][:, 11:13], silence[:, 11:13], atol=1e-3)
    torch.testing.assert_close(heard["shorter.mp4"][:, :11], heard["stereo.mp4"][:, :11], atol=0.1, rtol=0)
    torch.testing.assert_close(heard["longer.mp4"][:, :15], heard["stereo.mp4"][:, :15], atol=0.1, rtol=0)
    pixels = torch.cat([picture(x[None], LATENT) for x in latents.values()])
    assert pixels.shape == (6, *LATENT[:4]) and pixels.std() > 0.01
    assert make(asked, models) == (cache, ([], []))


def test_a_click_is_in_the_token_of_its_frame(tmp_path, models):
    (tmp_path / "in").mkdir()
    for frame in (None, 4, 10, 15):
        at = None if frame is None else frame / FPS
        write(tmp_path / f"in/{frame}.mkv", click(1, at), codec="flac", white=frame or 4)
    cache, _ = make(source(tmp_path, **SIZE), models)
    rows = cache.rows(range(4), ["latents", "shape", "video"])
    latents = torch.from_numpy(cache.latents(rows).copy())
    tokens = {row["video"]: sound(x[None], LATENT)[0] for row, x in zip(rows, latents, strict=True)}
    for frame in (4, 10, 15):
        changed = (tokens[f"{frame}.mkv"] - tokens["None.mkv"]).abs().amax(0) > 1e-3
        assert abs(int(changed.nonzero()[0]) - 25 * frame / FPS) <= 1


def test_rows_depend_on_the_parts_that_encode_sound(tmp_path, models):
    asked = source(clips(tmp_path, "mono.mp4"), **SIZE)
    cache, _ = make(asked, models)
    plain = Encoders(Pipeline("wan", models.path), TOKENS)
    assert models.sound and not plain.sound and plain.sound_rate == 0 and plain.sound_encoder() is None
    config = models.path / "audio_vae/config.json"
    before = config.read_text()
    try:
        config.write_text(before + "\n")
        other, (_, encoded) = make(asked, Encoders(Pipeline("ltx2", models.path), TOKENS))
    finally:
        config.write_text(before)
    assert len(encoded) == 1 and other.folder != cache.folder and other.card["sound"] != cache.card["sound"]
    assert other.card["latents"] == cache.card["latents"]


def test_a_damaged_track_leaves_its_clip_out_by_name(tmp_path, models):
    (tmp_path / "in").mkdir()
    write(tmp_path / "in/good.mkv", click(1, 0.2), codec="pcm_f32le")
    bad = write(tmp_path / "in/bad.mkv", click(1, 0.2), codec="pcm_f32le")
    data = bytearray(bad.read_bytes())
    place = data.rindex(np.float32(0.9).tobytes())
    data[place : place + 4] = np.float32(np.nan).tobytes()
    bad.write_bytes(data)
    cache, _ = make(source(tmp_path, **SIZE), models)
    assert (cache.card["clips"], cache.card["skipped"]) == (1, 1)
    assert "its sound is damaged at 0.0" in (cache.folder / "quarantine.jsonl").read_text()


def test_clips_that_are_encoded_beside_the_training_are_named_too(tmp_path, models, monkeypatch):
    asked = source(clips(tmp_path, "none.mp4", "mono.mp4"), stream=True, **SIZE)
    cache, _ = make(asked, models)
    for path in cache.latents_folder.glob("*.parquet"):
        path.unlink()
    (cache.folder / SILENT).unlink()

    def by_hand(asked, models, rows, write, cpus, say, stopped):
        for decoded in Decode(asked, models.sound_rate)(columns(rows.to_pylist())):
            write(EncodeClips(models)(decoded))
        return {}

    monkeypatch.setattr(beside, "encode_beside", by_hand)
    filling = Filling(asked, models, cache, range(2), 1, print)
    filling.run()
    filling.check()
    named = [json.loads(line)["file"] for line in (cache.folder / SILENT).read_text().splitlines()]
    assert named == ["none.mp4"]


def test_a_step_trains_on_files_with_sound(tmp_path, models):
    cache, _ = make(source(clips(tmp_path, "mono.mp4", "none.mp4"), **SIZE), models)
    stream = Stream(cache, 0, 0, 1, world=1, global_batch=2, micro_batch=2, with_latents=True, fields=models.fields)
    ((batch,),) = delivered(stream, 0)
    assert batch.x_0.shape == (2, *tensor_shape(LATENT)) and batch.modalities == modalities(LATENT)
    networks = {role: tiny_ltx2.make_transformer(1) for role in ("student", "fake_score", "teacher")}
    denoisers = {role: LTX2Denoiser(network) for role, network in networks.items()}
    student = networks["student"]
    before = {name: p.detach().clone() for name, p in student.named_parameters()}
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3, weight_decay=0.0)
    terms = DMD(backward_simulation=False).student_loss(denoisers, batch, StatelessRng(0), {})
    terms.loss.backward()
    optimizer.step()
    assert terms.loss.isfinite() and all(torch.isfinite(p).all() for p in student.parameters())
    moved = {name for name, p in student.named_parameters() if not torch.equal(p, before[name])}
    assert {"proj_in.weight", "audio_proj_in.weight", "proj_out.weight", "audio_proj_out.weight"} <= moved
    quiet = Batch(batch.sample_ids, batch.latent_shape, batch.cond, batch.uncond, batch.x_0.clone(), batch.modalities)
    sound(quiet.x_0, LATENT).zero_()
    other = DMD(backward_simulation=False).student_loss(denoisers, quiet, StatelessRng(0), {})
    assert other.loss != terms.loss


def check(folder, tmp_path, **dotted):
    model = {"family": "ltx2", "path": str(folder), "max_sequence_length": TOKENS}
    asked = {f"data__{key}": value for key, value in SIZE.items()} | {"data__manifest": None}
    asked["data__datasets"] = [{"videos": str(tmp_path), "captions": "filename"}]
    check_sound(run_config(tmp_path, model=model, **(asked | dotted)))


def test_frames_at_another_pace_than_their_sound_are_refused(folder, tmp_path):
    check(folder, tmp_path)
    with pytest.raises(ConfigError, match=r"data.stride = 2: the picture of .* 2 times as fast as its sound .* use 1"):
        check(folder, tmp_path, data__stride=2)
    part = {"videos": str(tmp_path), "captions": "filename", "stride": 3}
    with pytest.raises(ConfigError, match="data.stride = 3"):
        check(folder, tmp_path, data__datasets=[part])
    with pytest.raises(ConfigError, match="data.resample = false: frames of .* as they come"):
        check(folder, tmp_path, data__resample=False)
