"""Files that a source leaves out for the size or shape of their picture."""

import pytest
from pydantic import ValidationError

from ray_distill.data.source import Dataset, Source

AREA = {"resolution_type": "pixel_area", "resolution": 480}


def source(**keys):
    return Source.model_validate({"frames": 9, "height": 48, "width": 48, "manifest": "a.jsonl"} | keys)


@pytest.mark.parametrize(
    ("keys", "shown", "reason"),
    [
        ({}, (10, 10), ""),
        ({"minimum_image_size": 480}, (480, 832), ""),
        ({"minimum_image_size": 480}, (360, 640), "shows 640x360 pixels, below data.minimum_image_size = 480"),
        ({"minimum_image_size": 480, **AREA}, (360, 640), ""),  # just its area: 360 x 640 = 480 x 480
        ({"minimum_image_size": 480, **AREA}, (359, 640), "below data.minimum_image_size = 480, which are 480^2"),
        ({"minimum_image_size": 480, **AREA}, (270, 854), ""),
        ({"minimum_aspect_ratio": 0.5}, (200, 100), ""),
        ({"minimum_aspect_ratio": 0.5}, (201, 100), "a width / height below data.minimum_aspect_ratio = 0.5"),
        ({"maximum_aspect_ratio": 2}, (100, 200), ""),
        ({"maximum_aspect_ratio": 2}, (100, 201), "a width / height above data.maximum_aspect_ratio = 2"),
    ],
)
def test_a_picture_that_is_too_small_or_too_long(keys, shown, reason):
    assert reason in source(**keys).unfit(shown) and bool(source(**keys).unfit(shown)) is bool(reason)


def test_a_dataset_has_its_own_limits():
    data = source(
        manifest=None, datasets=[{"videos": "a"}, {"videos": "b", "maximum_aspect_ratio": 1, "minimum_image_size": 30}]
    )
    clips = [data.clips(part) for part in data.parts]
    assert [bool(each.unfit((20, 20))) for each in clips] == [False, True]
    assert [bool(each.unfit((40, 80))) for each in clips] == [False, True]


def test_only_a_manifests_videos_have_a_root():
    assert str(Dataset(manifest="table.csv", root="videos").root).endswith("videos")
    with pytest.raises(ValidationError, match="only a manifest takes a root; remove it"):
        Dataset(videos="clips", root="videos")
