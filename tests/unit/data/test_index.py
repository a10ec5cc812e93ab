"""A source on its way into a cache, with each stage called by hand: no Ray, and the digits' codec."""

import json
import os
import pickle
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ray_distill.data.encoders import Encoders
from ray_distill.data.feed.stream import Stream
from ray_distill.data.prepare import stages as files
from ray_distill.data.prepare.encode import EncodeClips, EncodeText
from ray_distill.data.prepare.index import _reasons, evenly_spaced, finish, summary
from ray_distill.data.prepare.inventory import Inventory
from ray_distill.data.prepare.known_caches import recall, remember
from ray_distill.data.prepare.listing import LISTED, entries, listing
from ray_distill.data.prepare.stages import CLIPS, Decode, Look, Write
from ray_distill.data.prepare.teach import PURPOSE, MakeClips
from ray_distill.data.read.transform import resize, to_pixels
from ray_distill.data.read.video import read_clip
from ray_distill.data.source import Source
from ray_distill.data.store import growing
from ray_distill.data.store.cache import Cache
from ray_distill.data.store.growing import Growing
from ray_distill.data.store.parquet import address
from ray_distill.data.store.tables import rows_of, table_of
from ray_distill.diffusion.samplers import sample
from ray_distill.diffusion.timesteps import euler_timesteps
from ray_distill.models import family
from ray_distill.models.codec import load_codec
from ray_distill.models.conditions import collate
from ray_distill.models.loading import load_transformer
from ray_distill.models.lora_files import LoRAFile
from ray_distill.models.pipeline import Pipeline
from ray_distill.models.spec import of_clips
from ray_distill.rng import StatelessRng
from ray_distill.types import Sampler
from tests.unit.data import caches, odd
from tests.unit.data.test_odd_files import BAD, CODECS

DIGITS = Path(__file__).parents[3] / "examples" / "digits_teacher"
MODELS = Encoders(Pipeline("wan", DIGITS), 8)


class Characters:
    """Encode captions as their characters' numbers, in place of a text encoder."""

    def __init__(self, models):
        self.max_length = models.max_sequence_length

    def to(self, device):
        return self

    def encode(self, prompts):
        tokens = [torch.tensor([1.0, *map(ord, prompt)])[: self.max_length] / 100 for prompt in prompts]
        return [{"text": torch.nn.functional.pad(each[:, None], (0, 63))} for each in tokens]

    def tokens(self, prompts):
        return [1 + len(prompt) for prompt in prompts]


@pytest.fixture(autouse=True)
def characters(monkeypatch):
    monkeypatch.setattr(Encoders, "text_encoder", lambda models: Characters(models))


def embedded(*prompts, models=MODELS):
    """Padded text [B, L, D]."""
    return collate(Characters(models).encode(prompts), models.fields)["text"]


def columns(rows):
    return {name: np.array([row[name] for row in rows] + [None], dtype=object)[:-1] for name in rows[0]}


def written(made, errors=False):
    """The stage that writes clips."""
    return Write(made.latents, errors, made.images, tuple(of_clips(made.models.fields)))


def make(source, models=MODELS):
    """Do what data/prepare/pipeline.py does, without Ray; returns the cache, and what was encoded for it."""
    listed = listing(source)
    if (found := recall(source, models, listed)) is not None:
        return found, ([], [])
    look, kinds = Look(source, models.multiple, models.sound), [part.kind for part in source.parts]
    prompts = [row for row in rows_of(listed) if kinds[row["dataset"]] == "prompts"]
    looked = [clip for row in rows_of(listed) if kinds[row["dataset"]] != "prompts" for clip in look(row)]
    made = Inventory(source, models, table_of(prompts, LISTED), table_of(looked, CLIPS))
    captions, clips = made.missing_text().to_pylist(), made.missing_clips().to_pylist()
    if captions:
        Write(made.text)(EncodeText(models)(columns(captions)))
    if clips:
        for decoded in Decode(source, models.sound_rate)(columns(clips)):
            told = written(made)(EncodeClips(models)(decoded))
            made.mark_failed(dict(zip(told["id"], told["error"], strict=True)))
    for number, part in enumerate(source.parts):
        if part.teacher and (rows := made.missing_teacher_clips(number).to_pylist()):
            (uncond,) = made.text.find([address(source.negative_prompt)])
            actor = MakeClips(models, part.teacher, made.sample_shape, made.text, uncond, made.images)
            for first in range(0, len(rows), 2):
                told = Write(made.latents)(actor(columns(rows[first : first + 2])))
                made.mark_failed(dict(zip(told["id"], told["error"], strict=True)))
            clips = clips + rows
    cache = finish(made)
    remember(source, models, listed, cache)
    return cache, ([row["caption"] for row in captions], [row.get("video") for row in clips])


def source(folder, *datasets, **given):
    settings = {"frames": 3, "height": 24, "width": 32, "fps": 8, "cache_dir": folder / "cache"} | given
    return Source(datasets=list(datasets) or [{"videos": folder / "in", "captions": "filename"}], **settings)


@pytest.fixture
def folder(tmp_path):
    """A folder with a wide file, a square one, a turned one, a text named .mp4, and one that is too short."""
    (tmp_path / "in").mkdir()
    odd.write(tmp_path / "in/wide.mp4", size=(48, 96))
    odd.write(tmp_path / "in/square.mp4", size=(64, 64))
    odd.write(tmp_path / "in/turned.mp4", size=(48, 96), turn=90)
    odd.write(tmp_path / "in/short.mp4", frames=2)
    (tmp_path / "in/text.mp4").write_text("none")
    return tmp_path


def test_clips_come_out_as_the_codec_sees_them(folder):
    cache, _ = make(source(folder, negative_prompt="bad"))
    assert cache.index["caption"].to_pylist() == [Path(v).stem for v in cache.index["video"].to_pylist()]
    rows = cache.rows(range(3), ["caption", "latents", "shape"])
    codec = load_codec(DIGITS / "vae")
    for number, row in enumerate(rows):
        name = row["caption"]
        frames = read_clip(str(folder / f"in/{name}.mp4"), source(folder).cut(0)).frames
        wanted = codec.encode(to_pixels(resize(frames, 24, 32))[None])[0].numpy()
        assert np.array_equal(cache.latents([row])[0], wanted)
        assert np.array_equal(caches.conditions(cache, [number], MODELS.fields)["text"], embedded(name))
    null, negative = Characters(MODELS).encode(["", "bad"])
    assert cache.prompt("null", MODELS.fields) == {"text": null["text"].numpy().tobytes()}
    assert cache.prompt("negative", MODELS.fields) == {"text": negative["text"].numpy().tobytes()}
    assert cache.card["clips"] == 3 and cache.card["skipped"] == 2 and cache.card["buckets"] == {"16x1x6x8": 3}
    assert summary(cache.card) == "3 kept, 2 left out; latents C x t x h x w: 3 of 16x1x6x8"


def test_two_videos_of_equal_content_and_caption_are_one_row_and_counted(folder):
    shutil.copyfile(folder / "in/wide.mp4", folder / "in/again.mp4")
    rows = [{"video": f"in/{name}.mp4", "caption": "one"} for name in ("wide", "again", "again", "square")]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cache, _ = make(source(folder, {"manifest": folder / "manifest.jsonl"}))
    assert (cache.card["clips"], cache.card["skipped"], cache.card["repeated"]) == (2, 0, 1)
    assert cache.card["equal_rows"] == 2  # one of another file, and a line that stands twice


def test_what_was_left_out_is_named_with_its_reason(folder):
    cache, _ = make(source(folder))
    rows = [json.loads(line) for line in (cache.folder / "quarantine.jsonl").read_text().splitlines()]
    assert {row["file"] for row in rows} == {"short.mp4", "text.mp4"}
    assert any("lasts 0.25 s and 0.375 s are needed" in row["reason"] for row in rows)
    assert any(row["reason"].startswith("cannot be decoded") for row in rows)
    assert not any(str(folder) in row["reason"] for row in rows)
    short = "lasts 0.25 s and 0.375 s are needed at 8 fps; lower data.frames or data.stride, or drop it"
    assert cache.card["reasons"][short] == 1


def test_reasons_that_differ_in_numbers_alone_are_one_in_the_words_of_the_first():
    rows = [
        {"path": f"{n}.mp4", "video": f"{n}.mp4", "error": f"{n}.mp4: no caption; write it into {n}.txt"}
        for n in (12, 7)
    ]
    rows.append({"path": "9.mp4", "video": "9.mp4", "error": "9.mp4: 9.txt: not UTF-8 (byte 0xe9)"})
    assert _reasons(rows) == {"no caption; write it into 12.txt": 2, "9.txt: not UTF-8 (byte 0xe9)": 1}


def test_sources_stay_as_they_were(folder):
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (folder / "in").iterdir()}
    make(source(folder))
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (folder / "in").iterdir()} == before


def test_areas_make_buckets_of_the_files_aspects(folder):
    wanted = source(folder, resolution_type="pixel_area", resolution=40)
    cache, _ = make(wanted)
    shapes = dict(zip(cache.index["caption"].to_pylist(), cache.index["shape"].to_pylist(), strict=True))
    # 40 x 40 pixels at 2:1 are 28 x 57; the digits' model takes multiples of 8 (a codec's 4, a patch's 2).
    assert shapes == {"wide": [16, 1, 8, 14], "turned": [16, 1, 14, 8], "square": [16, 1, 10, 10]}
    assert cache.latent_shape == (16, 1, 6, 8) and len(cache.buckets()) == 3
    frames = read_clip(str(folder / "in/turned.mp4"), wanted.cut(0)).frames
    row = cache.rows([cache.by_caption()["turned"]], ["latents", "shape"])
    codec = load_codec(DIGITS / "vae")
    assert np.array_equal(cache.latents(row)[0], codec.encode(to_pixels(resize(frames, 56, 32))[None])[0].numpy())


def test_nothing_is_encoded_twice(folder):
    cache, (captions, clips) = make(source(folder))
    assert sorted(captions) == ["", "short", "square", "turned", "wide"]
    assert sorted(clips) == ["short.mp4", "square.mp4", "turned.mp4", "wide.mp4"]
    assert make(source(folder))[1] == ([], [])
    # A file of another name and an old content, a new caption, a new file: only what is new is made.
    os.rename(folder / "in/wide.mp4", folder / "in/broad.mp4")
    odd.write(folder / "in/new.mp4", frames=9)
    (folder / "in/short.mp4").unlink()
    again, (captions, clips) = make(source(folder))
    assert sorted(captions) == ["broad", "new"] and clips == ["new.mp4"]
    assert again.folder != cache.folder and len(again.index) == 4 and len(cache.index) == 3
    assert sorted(again.captions()) == ["broad", "new", "square", "turned"]


def test_the_same_content_at_another_time_is_the_same_cache(folder):
    cache, _ = make(source(folder))
    os.utime(folder / "in/wide.mp4", ns=(1, 1))
    again, encoded = make(source(folder))
    assert again.folder == cache.folder and encoded[0] == [] and encoded[1] == ["short.mp4"]


@pytest.mark.parametrize(
    "change",
    [
        {"frames": 6, "fps": 16},
        {"stride": 2},
        {"fps": 16},
        {"resample": False},
        {"height": 32},
        {"crop": False},
    ],
)
def test_a_changed_setting_reads_no_stale_row(folder, change):
    first, _ = make(source(folder))
    other, (captions, clips) = make(source(folder, **change))
    assert other.folder != first.folder and captions == [] and len(clips) >= 3
    assert not {*first.index["id"].to_pylist()} & {*other.index["id"].to_pylist()}


def test_what_makes_no_clip_anew_changes_the_cache_alone(folder):
    first, _ = make(source(folder))
    for change in (
        {"negative_prompt": "wide"},
        {"datasets": [{"videos": folder / "in", "captions": "filename", "repeats": 1}]},
    ):
        settings = source(folder).model_dump(exclude_none=True) | change
        other, (captions, clips) = make(Source.model_validate(settings))
        assert other.folder != first.folder and (captions, clips) == ([], ["short.mp4"])


def test_another_model_is_another_store(folder, tmp_path):
    first, _ = make(source(folder))
    longer, (captions, clips) = make(source(folder), Encoders(Pipeline("wan", DIGITS), 9))
    assert len(captions) == 5 and clips == ["short.mp4"] and longer.folder != first.folder
    assert longer.folder != first.folder


def test_a_long_file_is_cut_into_clips(folder):
    odd.write(folder / "in/long.mp4", frames=11)
    cache, _ = make(source(folder, clips_per_video=3))
    numbers = zip(cache.index["video"].to_pylist(), cache.index["number"].to_pylist(), strict=True)
    assert {number for video, number in numbers if video == "long.mp4"} == {0, 1, 2}
    entry = {"dataset": 0, "path": str(folder / "in/long.mp4"), "error": ""}
    clips = Look(source(folder, clips_per_video=3), (8, 8))(entry)
    seen = [Decode(source(folder)).clip(row)[0] for row in clips]
    assert [odd.counted(pixels) for pixels in seen] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_small_files_are_left_out(folder):
    cache, _ = make(source(folder, minimum_image_size=60))
    assert cache.captions() == ["square"]
    assert "shows 96x48 pixels, below data.minimum_image_size = 60" in (cache.folder / "quarantine.jsonl").read_text()


def test_prompts_need_no_clip_and_have_the_samples_shape(folder):
    (folder / "p.txt").write_text("a kite\nwide\na kite\n")
    cache, (captions, clips) = make(source(folder, {"prompts": folder / "p.txt"}))
    assert captions == ["", "a kite", "wide"] and clips == [] and cache.captions() == ["a kite", "wide"]
    assert cache.buckets() == {(16, 1, 6, 8): [0, 1]} and cache.card["clips"] == 2
    both, _ = make(
        source(folder, {"prompts": folder / "p.txt", "repeats": 3}, {"videos": folder / "in", "captions": "filename"})
    )
    assert both.passes == [4.0, 4.0, 1.0, 1.0, 1.0] and len(both.index) == 5


@torch.no_grad()
def test_the_teacher_makes_the_clips_of_prompts(folder):
    (folder / "p.txt").write_text("a kite\na bird\n")
    recipe = {"steps": 3, "shift": 2.0, "guidance": 1.5, "clips_per_prompt": 2, "seed": 7}
    taught = source(folder, {"prompts": folder / "p.txt", "teacher": recipe}, negative_prompt="bad")
    cache, (captions, clips) = make(taught)
    assert len(captions) == 4 and len(clips) == 4 and cache.card["clips"] == 4
    assert cache.buckets() == {(16, 1, 6, 8): [0, 1, 2, 3]} and cache.captions() == ["a bird", "a kite"]
    denoise = family("wan").denoiser(load_transformer("wan", DIGITS))
    text = {name: {"text": embedded(name)} for name in ("a bird", "a kite", "bad")}
    for row in cache.rows(range(4), ["id", "caption", "latents", "shape"]):
        x_T = StatelessRng(7).noise(PURPOSE, torch.tensor([int(row["id"][:15], 16)]), (16, 1, 6, 8))
        sampler = Sampler(euler_timesteps(3, 2.0), "ode", 1.5)
        x_0 = sample(denoise, sampler, x_T, text[row["caption"]], text["bad"], noise=None)
        assert np.allclose(cache.latents([row]), x_0.numpy(), atol=1e-5)
    # One prompt more, and another batch: only its clips are made. Another recipe: all.
    (folder / "p.txt").write_text("a kite\na bird\na fish\n")
    changes = ({"batch": 3}, 2), ({"steps": 2}, 6), ({"clips_per_prompt": 3}, 3), ({"audio_guidance": None}, 0)
    for change, count in changes:
        part = {"prompts": folder / "p.txt", "teacher": recipe | change}
        assert len(make(source(folder, part, negative_prompt="bad"))[1][1]) == count


@torch.no_grad()
def test_the_teacher_makes_clips_with_its_loras(folder):
    (folder / "p.txt").write_text("a kite\n")
    layer = "blocks.0.attn1.to_q"
    width = load_transformer("wan", DIGITS).get_submodule(layer).in_features
    parts = {"A": torch.randn(2, width), "B": torch.randn(width, 2)}
    save_file({f"transformer.{layer}.lora_{part}.weight": t for part, t in parts.items()}, folder / "s.safetensors")
    loras = (LoRAFile(path=folder / "s.safetensors", weight=0.5),)
    styled = pickle.loads(pickle.dumps(Encoders(Pipeline("wan", DIGITS), 8, loras=loras)))  # as Ray sends it to actors
    prompts = source(folder, {"prompts": folder / "p.txt", "teacher": {"steps": 2, "shift": 2.0, "guidance": 1.0}})
    plain, _ = make(prompts)
    cache, (_, clips) = make(prompts, styled)
    assert len(clips) == 1 and cache.folder != plain.folder
    denoise_by = family("wan").denoiser(load_transformer("wan", DIGITS, loras=loras))
    (row,) = cache.rows([0], ["id", "latents", "shape"])
    x_T = StatelessRng(0).noise(PURPOSE, torch.tensor([int(row["id"][:15], 16)]), (16, 1, 6, 8))
    x_0 = sample(
        denoise_by, Sampler(euler_timesteps(2, 2.0), "ode"), x_T, {"text": embedded("a kite")}, None, noise=None
    )
    assert np.allclose(cache.latents([row]), x_0.numpy(), atol=1e-5)
    by_none = family("wan").denoiser(load_transformer("wan", DIGITS))
    other = sample(
        by_none, Sampler(euler_timesteps(2, 2.0), "ode"), x_T, {"text": embedded("a kite")}, None, noise=None
    )
    assert not np.allclose(cache.latents([row]), other.numpy(), atol=1e-3)


@torch.no_grad()
def test_the_teachers_trajectories_halt_at_levels(folder):
    (folder / "p.txt").write_text("a kite\na bird\n")
    recipe = {"steps": 3, "shift": 2.0, "guidance": 1.5, "seed": 7, "levels": [1000, 700.5, 333], "batch": 2}
    plain, _ = make(source(folder, {"prompts": folder / "p.txt", "teacher": recipe | {"levels": []}}))
    cache, (_, clips) = make(source(folder, {"prompts": folder / "p.txt", "teacher": recipe}))
    assert len(clips) == 2 and not {*plain.index["id"].to_pylist()} & {*cache.index["id"].to_pylist()}
    denoise_by = family("wan").denoiser(load_transformer("wan", DIGITS))
    grid = sorted({*euler_timesteps(3, 2.0), 1000, 700.5, 333}, reverse=True)
    solver = Sampler(tuple(grid), "ode", 1.5)
    text = {name: {"text": embedded(name)} for name in ("a bird", "a kite", "")}
    for row in cache.rows(range(2), ["id", "caption", "latents", "states", "shape"]):
        x_T = StatelessRng(7).noise(PURPOSE, torch.tensor([int(row["id"][:15], 16)]), (16, 1, 6, 8))
        states = np.frombuffer(row["states"], np.float32).reshape(3, *row["shape"])
        assert np.array_equal(states[0], x_T[0].numpy())  # at 1000 it is the noise
        for state, level in zip(states, recipe["levels"], strict=True):
            rest = solver.timesteps[grid.index(level) :]
            x_0 = sample(
                denoise_by,
                Sampler(rest, "ode", 1.5),
                torch.tensor(state)[None],
                text[row["caption"]],
                text[""],
                noise=None,
            )
            assert np.allclose(cache.latents([row]), x_0.numpy(), atol=1e-4)
    stream = Stream(
        cache, 0, 0, 1, world=1, global_batch=2, micro_batch=2, with_latents=True, fields=MODELS.fields, states=3
    )
    block = stream.block(0)
    assert [len(one) for one in block["states"]] == [3 * 4 * 16 * 6 * 8] * 2


def test_a_teachers_clips_that_are_not_finite_are_left_out(folder, monkeypatch):
    (folder / "p.txt").write_text("a kite\na bird\n")
    bad = torch.tensor([0])
    monkeypatch.setattr(
        "ray_distill.data.prepare.teach.trajectory", lambda d, s, x_T, *a: [x_T.index_fill(0, bad, torch.nan)]
    )
    cache, _ = make(source(folder, {"prompts": folder / "p.txt", "teacher": {"steps": 1}}))
    assert cache.card["clips"] == 1 and cache.card["reasons"] == {"the teacher's latents are not finite": 1}


def test_files_that_vanish_or_rot_half_way_cost_themselves(folder, monkeypatch):
    looked = files.look

    def vanish(path, *rest):
        told = looked(path, *rest)
        if path.endswith("wide.mp4"):
            os.unlink(path)
        return told

    monkeypatch.setattr(files, "look", vanish)
    cache, _ = make(source(folder))
    assert cache.captions() == ["square", "turned"]
    assert "cannot be read" in (cache.folder / "quarantine.jsonl").read_text()


def test_each_odd_file_is_kept_or_one_row_of_the_quarantine(tmp_path):
    """All kinds in one folder; a FIFO that was opened would wait for ever."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name, form in CODECS.items():
        odd.write(folder / name, **form)
    whole = (folder / "h264.mp4").read_bytes()
    for tenth in range(1, 10):
        (folder / f"cut {tenth}.mp4").write_bytes(whole[: len(whole) * tenth // 10])
    odd.write(
        folder / "slow and fast.mp4", milliseconds=[0, 100, 160, 400, 460, 500, 1000, 1100, 1200, 1300, 2000, 2100]
    )
    odd.write(folder / "turned.mp4", turn=90)
    for number, (write, _) in enumerate(BAD.values()):
        write(folder / f'bad {number} "it\'s" ü.mp4')
    names = {path.name for path in folder.iterdir()}
    before = {name: os.lstat(folder / name).st_mtime_ns for name in names}
    manifest = tmp_path / "m.jsonl"
    rows = [{"video": f"in/{name}", "caption": name} for name in sorted(names | {"not there.mp4"})]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    cache, _ = make(source(tmp_path, {"manifest": manifest}))
    kept = [Path(video).name for video in cache.index["video"].to_pylist()]
    lines = [json.loads(line) for line in (cache.folder / "quarantine.jsonl").read_text().splitlines()]
    out = {Path(line["file"]).name: line["reason"] for line in lines}
    assert len(lines) == len(out) and sorted([*kept, *out]) == sorted([*names, "not there.mp4"])
    assert all(out.values()) and {*CODECS, "slow and fast.mp4", "turned.mp4"} <= {*kept}
    assert sum(name.startswith("bad") for name in out) == len(BAD) - 1 and out["not there.mp4"] == "no such file"
    assert {name: os.lstat(folder / name).st_mtime_ns for name in names} == before


def test_nothing_left_is_an_error_with_the_reasons_at_hand(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/text.mp4").write_text("none")
    with pytest.raises(ValueError, match="none of its 1 clips can be used .in.; the reasons are in"):
        make(source(tmp_path))
    assert "text.mp4" in (tmp_path / "cache/quarantine.jsonl").read_text()
    assert not list((tmp_path / "cache").glob("*/card.json"))


def test_encoders_take_clips_of_several_shapes_at_once():
    codec = EncodeClips(MODELS)
    pixels = [np.random.default_rng(i).integers(0, 256, (3, 8 + 4 * (i % 2), 8, 3), dtype=np.uint8) for i in range(4)]
    rows = columns([{"id": str(i), "error": "" if i else "broken", "pixels": p} for i, p in enumerate(pixels)])
    encoded = codec(rows)
    assert encoded["latents"][0] == b"" and encoded["error"][0] == "broken"
    for number in (1, 2, 3):
        alone = codec.codec.encode(to_pixels(pixels[number])[None])[0]
        got = np.frombuffer(encoded["latents"][number], np.float32)
        assert np.array_equal(got, alone.flatten().numpy())  # on a CPU a row is a function of its clip alone


def test_the_contact_sheet_shows_what_the_model_sees(folder):
    cache, _ = make(source(folder))
    picture = np.asarray(Image.open(cache.folder / "contact_sheet.png"))
    rows = cache.index["caption"].to_pylist()
    # 24 x 32 magnified to 96 x 128; a title above each row; a margin around the sheet.
    assert picture.shape == (24 + 3 * (22 + 96 + 28) - 28 + 24, 24 + 4 * 128 + 3 * 4 + 24, 3)
    top = 24 + 146 * rows.index("square") + 22
    pixels = resize(read_clip(str(folder / "in/square.mp4"), source(folder).cut(0)).frames, 24, 32)
    assert np.array_equal(picture[top : top + 96 : 4, 24 : 24 + 128 : 4], pixels[0])
    left = 24 + 2 * (128 + 4)
    assert np.array_equal(picture[top : top + 96 : 4, left : left + 128 : 4], pixels[2])
    (folder / "p.txt").write_text("a kite")
    cache, _ = make(source(folder, {"prompts": folder / "p.txt"}))
    assert not (cache.folder / "contact_sheet.png").exists()


def test_a_sheet_takes_some_of_many():
    assert (
        evenly_spaced(0) == []
        and evenly_spaced(3) == [0, 1, 2]
        and len(evenly_spaced(1000)) == 12
        and evenly_spaced(1000)[-1] == 999
    )


def test_a_streamed_source_is_indexed_before_its_clips_are_encoded(folder):
    """The index has every clip that looks right; clips that cannot be decoded are found while they are encoded."""
    wanted = source(folder, stream=True)
    looked = [row for entry in entries(wanted) for row in Look(wanted, MODELS.multiple)(asdict(entry))]
    made = Inventory(wanted, MODELS, LISTED.empty_table(), table_of(looked, CLIPS))
    Write(made.text)(EncodeText(MODELS)(columns(made.missing_text().to_pylist())))
    cache = finish(made)
    assert cache.grows and sorted(cache.captions()) == ["short", "square", "turned", "wide"]
    rows = cache.rows(range(4), ["id", "dataset", "video", "path", "number", "height", "width", "header"])
    for decoded in Decode(wanted)(columns(rows)):
        encoded = EncodeClips(MODELS)(decoded)
        Write(made.latents, errors=True)({name: np.array(values, dtype=object) for name, values in encoded.items()})
    there = Growing(cache.latents_folder)
    there.wait_for(row["id"] for row in rows)
    assert len(there.places) == 3 and ["lasts 0.25 s" in error for error in there.errors.values()] == [True]
    prepared, encoded = make(source(folder))
    assert not prepared.grows and prepared.folder != cache.folder and encoded == ([], ["short.mp4"])
    index = [row for row in prepared.rows(range(3), ["id", "caption", "shape", "latents"])]
    growing.growing.cache_clear()
    growing.growing(cache.latents_folder).look()
    numbers = [number for number, caption in enumerate(cache.index["caption"].to_pylist()) if caption != "short"]
    assert cache.rows(numbers, ["id", "caption", "shape", "latents"]) == index


def test_a_cache_can_be_moved(folder):
    cache, _ = make(source(folder))
    wanted = cache.latents(cache.rows([0], ["latents", "shape"]))
    os.rename(folder / "cache", folder / "elsewhere")
    moved = Cache(folder / "elsewhere" / cache.folder.name)
    assert np.array_equal(moved.latents(moved.rows([0], ["latents", "shape"])), wanted)
