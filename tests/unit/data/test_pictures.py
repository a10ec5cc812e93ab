"""Pictures: read upright and whole or refused with a reason; listed by an image column."""

import json

import numpy as np
import pytest
from PIL import Image

from ray_distill.data.prepare.listing import entries
from ray_distill.data.read.clip import BadClip
from ray_distill.data.read.picture import read_picture
from ray_distill.data.source import Source

PIXELS = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
LIMIT = 10_000


def source(**part):
    clips = {"frames": 5, "height": 16, "width": 16}
    return Source.model_validate(clips | {"datasets": [part]})


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.webp"])
def test_a_picture_is_read_as_it_was_written(tmp_path, name):
    Image.fromarray(PIXELS).save(tmp_path / name, lossless=True)
    assert np.array_equal(read_picture(str(tmp_path / name), LIMIT), PIXELS)


def test_a_picture_that_a_camera_turned_is_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_picture(str(tmp_path / "a.png"), LIMIT), np.rot90(PIXELS, -1))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.txt", b"no picture", "is no picture of a known format; give PNG, JPEG, WEBP, BMP"),
        ("half.png", "half", "cannot be read as a picture"),
        ("deep.png", "deep", "Pillow's mode I;16; save it with 8 bits a channel"),
        ("large.png", "large", "has 30x20 pixels, above data.maximum_pixels = 599"),
    ],
)
def test_what_is_no_picture_is_refused_with_a_reason(tmp_path, name, content, reason):
    path = tmp_path / name
    if content == "deep":
        Image.fromarray(np.zeros((4, 4), np.uint16)).save(path)
    elif isinstance(content, str):
        Image.fromarray(PIXELS).save(path)
        path.write_bytes(path.read_bytes()[: -900 if content == "half" else None])
    else:
        path.write_bytes(content)
    with pytest.raises(BadClip) as error:
        read_picture(str(path), 599 if content == "large" else LIMIT)
    assert reason in str(error.value)


def test_a_manifest_s_image_column_names_the_picture_of_each_row(tmp_path):
    rows = [
        {"video": "a.mp4", "caption": "a", "image": "a.png"},
        {"video": "b.mp4", "caption": "b"},
        {"video": "c.mp4", "caption": "c", "image": "../c.png"},
        {"video": "d.mp4", "caption": "d", "image": 4},
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    named = list(entries(source(manifest=str(tmp_path / "m.jsonl"), image_column="image")))
    assert [entry.image for entry in named] == [str(tmp_path / "a.png"), "", "", ""]
    assert [bool(entry.error) for entry in named] == [False, False, True, True]
    assert "../c.png lies outside" in named[2].error and "image is a path, not int" in named[3].error
    assert not any(entry.image for entry in entries(source(manifest=str(tmp_path / "m.jsonl"))))


def test_prompts_with_an_image_column_need_a_picture_each(tmp_path):
    rows = [{"caption": "a", "picture": "a.png"}, {"caption": "b"}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    first, second = entries(source(prompts=str(tmp_path / "p.jsonl"), image_column="picture"))
    assert first.image == str(tmp_path / "a.png") and not first.error
    assert second.error == "p.jsonl, line 2: no picture under 'picture'"


def test_a_parquet_s_image_column_is_read(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"video": ["a.mp4"], "caption": ["a"], "still": ["a.png"]}), tmp_path / "m.parquet")
    (entry,) = entries(source(manifest=str(tmp_path / "m.parquet"), image_column="still"))
    assert entry.image == str(tmp_path / "a.png")


def test_folders_and_shards_have_no_columns(tmp_path):
    with pytest.raises(
        ValueError, match="image_column = 'image': videos have no columns; remove it, or use a manifest"
    ):
        source(videos=str(tmp_path), image_column="image")
