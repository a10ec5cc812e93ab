"""Memory of encoders: that of a few latents, multiplied, against whole clips, whole and by tiles."""

import math
import sys
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo15
from torch._subclasses.fake_tensor import FakeTensorMode

from ray_distill.config import load_config
from ray_distill.models.codec import load_codec, vae_class
from ray_distill.models.pipeline import Pipeline
from ray_distill.plan.encoding import COPIES, coding, text_elements
from ray_distill.plan.hardware import GIB, parse_cluster
from ray_distill.plan.passes import Counter
from ray_distill.plan.report import Assumed, encoding_lines

sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))
import tiny_cogvideox
import tiny_ltx2
import tiny_wan

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "configs"
VIDEOS = "data.datasets=[{videos: somewhere}]"
WHOLE = "model.vae_tiling=false"
CLIPS = {"wan": (33, 320, 448), "wan48": (33, 320, 448), "ltx2": (65, 576, 640), "cogvideox": (33, 320, 448)}


def thin_vae(name):
    torch.manual_seed(0)
    match name:
        case "wan" | "wan48":
            return tiny_wan.make_vae(0, 16 if name == "wan" else 48)
        case "ltx2":
            return tiny_ltx2.make_vae()
        case "cogvideox":
            return tiny_cogvideox.make_vae("5b")
    return AutoencoderKLHunyuanVideo15(latent_channels=4, block_out_channels=(16, 16, 32, 32, 32), layers_per_block=1)


@pytest.fixture(scope="module", params=[*CLIPS, "hunyuan15"])
def case(request, tmp_path_factory):
    """(a pipeline's folder with a thin VAE and no weights, a size of clips)."""
    folder, name = tmp_path_factory.mktemp(request.param), request.param
    thin_vae(name).save_config(folder / "vae")
    # Hunyuan's attention mask grows with the square of the area: beside thin layers it would be most of the memory.
    return Pipeline(name.removesuffix("48"), folder), CLIPS.get(name, (33, 64, 96))


def counted(pipeline, size, tiling):
    """(peak of encoding, peak of decoding) of a whole clip, on tensors without data."""
    with FakeTensorMode():
        codec = vae_class(pipeline.vae["_class_name"], "").outline(pipeline.vae)
        if tiling:
            codec.vae.enable_tiling()
        peaks = []
        for work, shape in (
            (codec.encode, (1, 3, *size)),
            (codec.decode, (1, *codec.latent_shape(*size)[:4])),
        ):
            with Counter([*codec.parameters(), *codec.buffers()]) as counter:
                work(torch.zeros(shape))
            peaks.append(counter.most)
    return peaks


def test_a_few_latents_tell_the_memory_of_a_clip(case):
    encode, decode = counted(*case, tiling=False)
    found = coding(*case, tiling=False)
    assert found.encode == pytest.approx(encode, rel=0.1)
    assert found.decode == pytest.approx(decode, rel=0.1)


@pytest.mark.slow
def test_tiles_take_no_more_than_planned(case):
    whole, tiles = (coding(*case, tiling) for tiling in (False, True))
    copies = COPIES * 4 * 3 * math.prod(case[1])
    encode, decode = counted(*case, tiling=True)
    assert encode <= tiles.encode <= whole.encode + copies
    assert decode <= tiles.decode <= whole.decode + copies


def test_a_pca_is_counted_too():
    pipeline = load_config(CONFIGS / "quickstart.yaml", [], {}).config.model.pipeline
    codec, size = load_codec(pipeline.path / "vae"), (9, 24, 24)
    found = coding(pipeline, size, tiling=True)
    assert found == coding(pipeline, size, tiling=False)  # it has no tiles
    assert found.weights == sum(tensor.nbytes for tensor in codec.buffers())
    pixels = torch.zeros(1, 3, *size)
    with Counter([*codec.buffers(), pixels]) as counter:
        codec.encode(pixels)
    assert found.encode == pytest.approx(counter.most + pixels.nbytes, rel=0.1)


def test_elements_of_a_text_encoder_are_those_of_its_files_or_the_published_number():
    files = load_config(CONFIGS / "quickstart.yaml", [], {}).config
    encoder = files.model.encoders.text_encoder()
    assert text_elements(files) == sum(p.numel() for p in encoder.model.parameters())
    assert text_elements(load_config(CONFIGS / "wan2.1_14b/dmd.yaml", [], {}).config) == 5_680_000_000


@pytest.mark.parametrize(
    ("path", "card", "given", "wanted"),
    [
        ("wan2.2_5b/dmd", "RTX4090-24GB", [], "codec 11.3 GiB in batches of 1: weights 2.6, a clip 8.7"),
        ("wan2.2_5b/dmd", "RTX4090-24GB", ["data.encode_batch=3"], "that are free; set data.encode_batch=1"),
        ("wan2.2_5b/dmd", "RTX4090-24GB", ["data.encoder_gpus=0"], "text encoder 21.2 GiB on a CPU"),
        ("hunyuan15/dmd", "H100-80GB", [VIDEOS], "codec 29.7 GiB in batches of 1: weights 4.7, a clip 25.0"),
        ("hunyuan15/dmd", "H100-80GB", [VIDEOS, WHOLE], "that are free; set data.encode_batch=1 model.vae_tiling=true"),
        ("hunyuan15/dmd", "RTX4090-24GB", ["model.text_encoder_precision=float32"], "text_encoder_precision=bfloat16"),
        ("ltx2/dmd_shared_base", "RTX4090-24GB", [], "that are free; set data.encoder_gpus=0 data.encoders=1"),
    ],
)
def test_plan_says_what_encoders_need(path, card, given, wanted):
    config = load_config(CONFIGS / f"{path}.yaml", given, {}).config
    assert wanted in "\n".join(encoding_lines(config, parse_cluster(f"8x{card}"), Assumed()))


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("Wan 2.1", "wan2.1_14b/dmd"),
        ("Wan 2.2 5B", "wan2.2_5b/dmd"),
        ("LTX-2", "ltx2/dmd_i2v"),
        ("HunyuanVideo 1.5", "hunyuan15/dmd"),
        ("CogVideoX 5B", "cogvideox/dmd"),
    ],
)
def test_the_table_of_published_codecs(name, path):
    config = load_config(CONFIGS / f"{path}.yaml", [], {}).config
    size = config.data.frames, config.data.height, config.data.width
    whole, tiles = (coding(config.model.pipeline, size, tiling) for tiling in (False, True))
    weights, encode, decode, *by_tiles = (
        f"{value / GIB:.1f}" for value in (whole.weights, whole.encode, whole.decode, tiles.encode, tiles.decode)
    )
    (row,) = [line for line in (ROOT / "docs/plan.md").read_text().splitlines() if line.startswith(f"| {name} | ")]
    cells = row.strip("| ").split(" | ")
    assert cells[1:5] == [" x ".join(map(str, size)), weights, encode, decode]
    assert cells[6] == " and ".join(by_tiles)
