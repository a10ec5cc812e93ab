"""`check` of runs from images: ready where all of it fits, and each misfit by its name."""

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from ray_distill.config import ConfigError
from ray_distill.evaluate.sample import check_picture_frames
from ray_distill.models.causal_pca import CausalPatchPCA
from ray_distill.models.patch_pca import PatchPCA
from ray_distill.train.driver.check import check
from tests.own_codec import with_codec
from tests.two_experts import TRAINED
from tests.unit.toys import run_config

sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))
import tiny_wan

PHASED = {"name": "dmd_phased", "high_steps": 400, "boundary": 0.9, "flow_shift": 9.0, "score_shift": 9.0}
LONG = {"name": "self_forcing", "num_frame_per_block": 1, "window": 2, "num_training_frames": 2, "rollout_frames": 6}
HELD = {"optimizer": {"learning_rate": 1e-4}}


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    home = tmp_path_factory.mktemp("kinds")
    for kind in ("2.1_t2v", "2.1_i2v", "2.2_5b", "2.2_a14b_i2v"):
        tiny_wan.main([str(home / kind), "--kind", kind])
    return home


@pytest.fixture
def config(tmp_path, pipelines):
    Image.new("RGB", (120, 90), "red").save(tmp_path / "a.png")
    (tmp_path / "broken.png").write_bytes(b"none")
    row = {"video": "a.mp4", "caption": "a", "image": "a.png"}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(row) + "\n")

    def make(kind, **changes):
        size = {"data__frames": 5, "data__height": 64, "data__width": 96}
        return run_config(tmp_path, model__path=str(pipelines / kind), **size | changes)

    return make


def dataset(folder, **part):
    return [{"manifest": str(folder / "manifest.jsonl"), **part}]


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("2.1_t2v", {}),
        ("2.1_i2v", {}),
        ("2.1_i2v", {"image_column": "image"}),
        ("2.2_5b", {}),
        ("2.2_5b", {"from_image": True}),
        ("2.2_5b", {"from_image": True, "image_column": "image"}),
        ("2.2_5b", {"method": {"name": "self_forcing", "num_frame_per_block": 1}}),
        ("2.2_5b", {"from_image": True, "method": {"name": "self_forcing", "num_frame_per_block": 1}}),
        ("2.1_i2v", {"method": {"name": "self_forcing", "num_frame_per_block": 1}}),
        ("2.2_a14b_i2v", {"method": PHASED, "roles": dict.fromkeys(TRAINED, HELD)}),
    ],
)
def test_what_fits_is_ready(config, tmp_path, kind, changes):
    column = {"image_column": changes["image_column"]} if "image_column" in changes else {}
    rest = {key: value for key, value in changes.items() if key in ("method", "roles")}
    asked = {"data__datasets": dataset(tmp_path, **column), "model__from_image": changes.get("from_image")}
    check(config(kind, data__manifest=None, **asked, **rest))


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("2.1_t2v", {"column": "image"}, r"'.*' has image_column = 'image', and .* makes videos of text alone"),
        ("2.2_5b", {"column": "image"}, "makes videos of text alone; .*model.from_image=true"),
        ("2.1_t2v", {"model__from_image": True}, "model.from_image = true: .* is a text-to-video pipeline"),
        ("2.1_i2v", {"model__from_image": False}, "model.from_image = false: .* in_channels 36 and takes an image"),
        (
            "2.1_i2v",
            {"prompts": True},
            "has prompts alone, and .* needs a picture with each prompt; name the pictures' column",
        ),
        ("2.1_i2v", {"model__max_sequence_length": 256}, "max_sequence_length = 256: .* splits text from image at 512"),
        (
            "2.2_5b",
            {"model__from_image": True, "data__frames": 1},
            "and the picture gives 1 of them, so no frame is left to generate",
        ),
        (
            "2.1_i2v",
            {"data__frames": 1},
            "data.frames = 1: the shortest clips have 1 latent frames, and the picture gives 1",
        ),
        ("2.1_i2v", {"evaluate__prompts": {"a": "a kite"}}, "evaluate.prompts: 'a' has no picture"),
        ("2.1_t2v", {"evaluate__images": {"a": "{home}/a.png"}}, "evaluate.images: the pipeline makes videos of text"),
        ("2.1_i2v", {"evaluate__images": {"a": "{home}/broken.png"}}, "evaluate.images: a: .*is no picture"),
        ("2.1_i2v", {"student": "2.1_t2v"}, "student takes and gives in_channels 16|takes and gives in_channels"),
        ("2.2_5b", {"model__from_image": True, "method": LONG}, "method.rollout_frames: .* begins from a picture"),
        (
            "2.2_5b",
            {"model__from_image": True, "method": LONG | {"rollout_overlap": 1}},
            "method.rollout_frames: .* begins from a picture",
        ),
        (
            "2.2_5b",
            {"data__frames": 1, "method": LONG},
            "method.rollout_frames: the shortest clips have 1 latent frame",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_its_name(config, tmp_path, pipelines, kind, changes, message):
    changes = json.loads(json.dumps(changes).replace("{home}", str(tmp_path)))
    parts = dataset(tmp_path)
    if column := changes.pop("column", None):
        parts = dataset(tmp_path, image_column=column)
    if changes.pop("prompts", None):
        parts = [{"prompts": str(tmp_path / "manifest.jsonl")}]
    if "evaluate__images" in changes:
        changes["evaluate__prompts"] = {"a": "a kite"}
    if student := changes.pop("student", None):
        changes["roles__student__path"] = str(pipelines / student)
    with pytest.raises(ConfigError, match=message):
        check(config(kind, data__manifest=None, data__datasets=parts, **changes))


def test_a_picture_beside_each_frame_bounds_a_clip_and_a_first_frame_does_not(config):
    check_picture_frames(config("2.2_5b", model__from_image=True), 481)
    check_picture_frames(config("2.1_i2v"), 5)
    with pytest.raises(
        ConfigError, match=r"--frames 9: .* reads its picture beside each frame \(held\).* use 5 or fewer"
    ):
        check_picture_frames(config("2.1_i2v"), 9)


@pytest.mark.parametrize(
    ("codec", "frames", "refused"),
    [
        (CausalPatchPCA, 5, None),
        (PatchPCA, 6, r"the vae cannot encode one frame: .*\(1, 4, 4\) must be multiples of PatchPCA's"),
    ],
)
def test_a_codec_of_ours_takes_images_where_its_first_latent_frame_is_one(
    config, tmp_path, pipelines, codec, frames, refused
):
    path = with_codec(tmp_path / "base", pipelines / "2.2_5b", codec)
    asked = config(path, model__from_image=True, data__frames=frames)
    if refused is None:
        check(asked)
    else:
        with pytest.raises(ConfigError, match=refused):
            check(asked)
