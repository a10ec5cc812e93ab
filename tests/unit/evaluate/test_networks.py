"""Metrics by networks of the user's own: closed forms, real classes in the real format, and refusals by name."""

import json
import shutil

import numpy as np
import pytest
import torch

from ray_distill.config import ConfigError
from ray_distill.config.measures import check_names
from ray_distill.evaluate.compare import ratios
from ray_distill.evaluate.metrics.consistency import agreement, consistency, network_measures
from ray_distill.evaluate.metrics.frames import Frames
from ray_distill.evaluate.metrics.networks import check_network, cut_prompts, load_network
from ray_distill.evaluate.samples import Samples
from tests.unit.evaluate import judges

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    home = tmp_path_factory.mktemp("judges")
    return {name: make(home / name) for name, make in judges.MAKE.items()}


def turning(degrees, frames=16):
    """Unit features that turn by ``degrees`` a frame, fp64 [T, 2]."""
    angles = torch.deg2rad(degrees * torch.arange(frames, dtype=torch.float64))
    return torch.stack([angles.cos(), angles.sin()], -1)


def video(seed, frames=6, height=30, width=40):
    """Patches of one colour that drift, uint8 [T, H, W, 3]."""
    rng = np.random.default_rng(seed)
    picture = np.kron(rng.integers(50, 200, (height // 10, width // 10, 3)), np.ones((10, 10, 1)))
    return np.stack([np.roll(picture, 3 * t, axis=1) for t in range(frames)]).astype(np.uint8)


@pytest.mark.parametrize(("degrees", "expected"), [(5, 0.8544666442), (20, 0.5716140910), (0, 1.0)])
def test_consistency_of_features_that_turn(degrees, expected):
    assert consistency(turning(degrees)) == pytest.approx(expected, abs=1e-9)


def test_agreement_is_the_mean_of_the_frames_cosines_and_not_that_of_their_mean():
    frames, text = torch.eye(2, dtype=torch.float64), torch.tensor([1.0, 1.0], dtype=torch.float64) / 2**0.5
    assert agreement(frames, text) == pytest.approx(0.5**0.5)  # the mean feature's cosine is 1


def test_frames_are_prepared_as_the_folder_s_own_processor_does(folders):
    """Within the roundings to uint8 that PIL does between its two passes and after them."""
    shown = video(0)
    ours = Frames.read(folders["clip"], "here")(torch.from_numpy(shown), CPU)
    theirs = judges.processor(folders["clip"])(list(shown), return_tensors="pt")["pixel_values"]
    assert ours.shape == theirs.shape == (6, 3, judges.SIDE, judges.SIDE)
    assert (ours - theirs).abs().max() < 1.5 / 255 / 0.2 and (ours - theirs).abs().mean() < 0.01


def test_features_are_those_of_transformers_own_calls(folders):
    from transformers import AutoTokenizer, CLIPModel, Dinov2Model, VideoMAEModel

    shown = video(1)
    pixels = Frames.read(folders["dinov2"], "here")(torch.from_numpy(shown), CPU)
    with torch.no_grad():
        theirs = Dinov2Model.from_pretrained(folders["dinov2"])(pixels).pooler_output
        ours = load_network(folders["dinov2"], CPU).image_features(shown)
        assert torch.allclose(ours, torch.nn.functional.normalize(theirs, dim=-1), atol=1e-5)

        model, tokenizer = CLIPModel.from_pretrained(folders["clip"]), AutoTokenizer.from_pretrained(folders["clip"])
        pixels = Frames.read(folders["clip"], "here")(torch.from_numpy(shown), CPU)
        outputs = model(**tokenizer(["a red seven"], return_tensors="pt"), pixel_values=pixels)
        network = load_network(folders["clip"], CPU)
        assert torch.allclose(network.image_features(shown), outputs.image_embeds, atol=1e-5)
        assert torch.allclose(network.text_features(["a red seven"]), outputs.text_embeds, atol=1e-5)

        pixels = Frames.read(folders["videomae"], "here")(torch.from_numpy(shown[[0, 2, 3, 5]]), CPU)
        theirs = VideoMAEModel.from_pretrained(folders["videomae"])(pixels[None]).last_hidden_state[0].mean(0)
        assert torch.allclose(load_network(folders["videomae"], CPU).video_features(shown), theirs, atol=1e-5)


def test_a_padded_prompt_and_a_long_one_have_features(folders):
    network = load_network(folders["clip"], CPU)
    with torch.no_grad():
        alone, padded = (
            network.text_features(["a seven"]),
            network.text_features(["a seven", "a red seven moving left"]),
        )
        assert torch.allclose(alone[0], padded[0], atol=1e-5) and padded.shape == (2, 24)
        assert network.text_features(["a red " * 40]).isfinite().all()  # cut to 16 tokens


def test_prompts_that_clip_cuts_are_counted(folders):
    """16 positions, two of them for the ends: 14 words fit."""
    assert cut_prompts(folders["clip"], ["a " * 14, "a " * 15, "a red " * 40]) == 2


def test_all_measures_of_some_videos(folders):
    videos = np.stack([video(0), video(1), np.repeat(video(0)[:1], 6, axis=0)])
    keys = {"subject": "dinov2", "background": "clip", "text": "clip", "video": "vjepa2"}
    measured, whole = network_measures(
        videos, ["a red seven"] * 3, {key: folders[name] for key, name in keys.items()}, CPU
    )
    assert set(measured) == {"subject_consistency", "background_consistency", "text_agreement"}
    assert whole.shape == (3, 48) and all(values.shape == (3,) for values in measured.values())
    for name in ("subject_consistency", "background_consistency"):
        assert measured[name][2] == pytest.approx(1.0, abs=1e-5) and measured[name][:2].max() < 0.999
    assert measured["text_agreement"][0] != measured["text_agreement"][1]
    assert network_measures(videos, ["a"] * 3, {}, CPU) == ({}, None)
    mean, features = network_measures(videos[:1], ["a"], {"video": folders["dinov2"]}, CPU)
    assert mean == {} and features.shape == (1, 32)


@pytest.mark.parametrize("name", ["videomae", "vjepa2"])
@pytest.mark.parametrize("frames", [1, 3, 9])
def test_a_clip_of_any_length_has_a_feature_that_its_motion_changes(folders, name, frames):
    network, shown = load_network(folders[name], CPU), video(2, frames)
    with torch.no_grad():
        feature = network.video_features(shown)
        still = network.video_features(np.repeat(shown[:1], frames, axis=0))
    assert feature.isfinite().all()
    assert torch.allclose(feature, still, atol=1e-4) == (frames == 1)


def test_a_network_is_loaded_once_in_a_process(folders):
    assert load_network(folders["dinov2"], CPU) is load_network(folders["dinov2"], CPU)


def test_each_key_takes_its_classes_alone(folders):
    taken = {"subject": {"dinov2", "clip"}, "background": {"dinov2", "clip"}, "text": {"clip"}, "video": set(folders)}
    for key, names in taken.items():
        for name, folder in folders.items():
            if name in names:
                check_network(key, folder, "here")
                continue
            with pytest.raises(ConfigError, match=f"^here: its config.json has model_type '{name}'; this key takes "):
                check_network(key, folder, "here")


def test_a_folder_that_cannot_be_read_is_refused_with_a_remedy(folders, tmp_path):
    def copy(name):
        return shutil.copytree(folders["clip"], tmp_path / name)

    spoilt = {
        "bin": ("no model.safetensors in", lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin")),
        "wide": ("its weights lack", lambda f: _edit(f, "config.json", projection_dim=48)),
        "plain": ("no preprocessor_config.json in", lambda f: (f / "preprocessor_config.json").unlink()),
        "mean": ("preprocessor_config.json has no valid 'image_mean'", lambda f: _edit(f, image_mean=None)),
        "std": ("image_mean and image_std need", lambda f: _edit(f, image_std=[0.2, 0.2, 0.0])),
        "large": ("sides of", lambda f: _edit(f, size=1_000_000)),
        "words": ("its tokenizer: no tokenizer_config.json", lambda f: (f / "tokenizer_config.json").unlink()),
    }
    for name, (message, spoil) in spoilt.items():
        folder = copy(name)
        spoil(folder)
        with pytest.raises(ConfigError, match=message):
            check_network("text", folder, "here")


def _edit(folder, name="preprocessor_config.json", **changed):
    content = {**json.loads((folder / name).read_text()), **changed}
    (folder / name).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def test_a_number_needs_its_network():
    check_names(["video_kid", "text_agreement_ratio"], (), False, True, {"video", "text"})
    with pytest.raises(ValueError, match=r"video_kid needs evaluate\.networks\.video; set it, or remove video_kid"):
        check_names(["video_kid"], (), False, True, {"text"})
    with pytest.raises(ValueError, match="video_frechet compares with the teacher"):
        check_names(["video_frechet"], (), False, False, {"video"})


def test_a_student_that_ignores_its_prompt_and_one_whose_scene_changes_are_named(monkeypatch):
    monkeypatch.setattr(
        "ray_distill.evaluate.metrics.consistency.load_network", lambda folder, device: judges.Colours()
    )
    prompts = ["red", "green", "blue"]
    plain = (
        np.eye(3)[:, None, None, None] * np.linspace(180, 200, 6)[None, :, None, None, None] * np.ones((1, 1, 4, 4, 1))
    )
    changing = plain.copy()
    changing[:, 3:] = np.roll(plain[:, 3:], 1, axis=-1)
    faults = {"fine": plain, "ignores its prompt": np.roll(plain, 1, axis=0), "changes": changing}

    def shown(videos):
        folders = {"subject": 0, "text": 0}
        measured, _ = network_measures((videos + 20).astype(np.uint8), prompts, folders, CPU)
        return Samples(None, None, None, 0.01, np.zeros((1, 1, 2, 2, 3), np.uint8), measured)

    found = {name: ratios([shown(videos)], [shown(plain)], prompts) for name, videos in faults.items()}
    value = {name: {key: row["value"] for key, row in rows.items()} for name, rows in found.items()}
    both = ("subject_consistency_ratio", "text_agreement_ratio")
    assert all(value["fine"][name] == 1 for name in both)
    assert value["ignores its prompt"][both[0]] == pytest.approx(1) and value["ignores its prompt"][both[1]] < 0.2
    assert value["changes"][both[0]] < 0.8 and found["ignores its prompt"][both[1]]["high"] < 0.5
