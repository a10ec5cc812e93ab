from pathlib import Path

import pytest
from pydantic import ValidationError

from ray_distill.data.read.clip import Cut
from ray_distill.data.source import Source


def source(**given):
    return Source.model_validate({"manifest": "m.jsonl", "frames": 9, "height": 24, "width": 32} | given)


def area(resolution=480, **given):
    return source(resolution_type="pixel_area", resolution=resolution, **given)


def test_fixed_is_the_size_of_samples():
    assert source().size((1080, 1920), (16, 16)) == (24, 32)


@pytest.mark.parametrize(
    ("shown", "size"),
    [
        ((480, 480), (480, 480)),
        ((1080, 1920), (352, 640)),  # 16:9 at 480 x 480 pixels is 360 x 640; 360 / 16 = 22.5 goes to the even 22
        ((1920, 1080), (640, 352)),
        ((480, 832), (368, 624)),
        ((240, 2400), (144, 1520)),
        ((100, 10000), (48, 4800)),
        ((10000, 1), (4800, 48)),  # 0.0001 rounds to no aspect at all: the least one is 0.01
    ],
)
def test_areas_keep_the_aspect_in_whole_multiples(shown, size):
    assert area().size(shown, (16, 16)) == size


def test_areas_are_near_the_resolution_and_aspects_near_the_files():
    for width in range(200, 2000, 37):
        height, wide = area().size((480, width), (16, 16))
        assert height % 16 == wide % 16 == 0
        assert height * wide == pytest.approx(480**2, rel=0.06)
        assert wide / height == pytest.approx(width / 480, rel=0.07)


def test_rounding_makes_buckets_of_near_aspects():
    sizes = {rounding: {area(1024, aspect_bucket_rounding=rounding).size((1000, w), (2, 2)) for w in range(1000, 1100)}
             for rounding in (1, 2, 3)}  # fmt: skip
    assert len(sizes[1]) == 2 and len(sizes[2]) == 11 and len(sizes[3]) == 40


def test_multiples_may_differ():
    height, width = area(64).size((100, 100), (8, 12))
    assert (height, width) == (64, 60)


def test_a_dataset_may_have_settings_of_its_own():
    both = area(
        datasets=[{"videos": "a"}, {"videos": "b", "frames": 5, "resolution": 64, "crop": False}], manifest=None
    )
    plain, own = map(both.clips, both.parts)
    assert (plain.frames, plain.resolution, plain.crop) == (9, 480, True)
    assert (own.frames, own.resolution, own.crop, own.stride) == (5, 64, False, 1)


def test_a_cut_is_at_the_samples_rate_unless_frames_are_taken_as_they_come():
    assert source(fps=8, stride=2).cut(3) == Cut(9, 2, 8, 3)
    assert source(fps=8, resample=False).cut(0) == Cut(9, 1, None, 0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"resolution": 480}, "resolution = 480: resolution_type 'fixed' takes height and width; remove it"),
        ({"resolution_type": "pixel_area"}, "resolution_type 'pixel_area' needs a resolution, such as 480"),
        ({"manifest": None, "datasets": [{"videos": "x/kites", "resolution": 64}]}, "'kites' has a resolution: give"),
    ],
)
def test_sizes_that_make_no_sense(given, message):
    with pytest.raises(ValidationError, match=message):
        source(**given)


@pytest.mark.parametrize("place", ["s3://bucket/cache", "gs://b", "file:///cache", "s3:/bucket", "hdfs://host:9/a"])
def test_a_cache_is_a_folder_and_no_uri(place):
    with pytest.raises(ValidationError, match=r"cache_dir\n.*is no folder: .*storage that all nodes mount"):
        source(cache_dir=place)
    with pytest.raises(ValidationError, match="is no folder"):
        source(cache_dir=Path(place))


def test_no_user_or_key_of_a_uri_is_shown():
    with pytest.raises(ValidationError) as error:
        source(cache_dir="s3://somebody:hunter2@bucket/cache")
    assert "hunter2" not in error.value.errors()[0]["msg"]


@pytest.mark.parametrize("place", ["cache", "/mnt/a b/cache", "c:ache", "a/b:c/d", "a~s3"])
def test_a_cache_may_be_any_path(place):
    assert source(cache_dir=place).cache_dir == Path(place).absolute()
