"""Memory of a task that samples: against a real network's call, and the change with which it fits."""

from pathlib import Path

import pytest
import torch

from ray_distill.config import load_config
from ray_distill.models.loading import load_transformer
from ray_distill.models.wan.network import WanDenoiser
from ray_distill.plan import plan
from ray_distill.plan.passes import Counter
from ray_distill.plan.sampling import Sampling, sampling

SHAPE = 16, 3, 6, 6
CONFIGS = Path(__file__).parents[3] / "configs"


def test_a_task_takes_what_a_real_network_takes():
    """The teacher of the quick start, guided, on 20 videos at a time."""
    config = load_config(CONFIGS / "quickstart.yaml", ["evaluate.batch=20"], {}).config
    network = load_transformer("wan", config.model.path).requires_grad_(False)
    x, sigma, cond = torch.randn(40, *SHAPE), torch.rand(40), {"text": torch.randn(40, 12, 64)}
    with Counter([*network.parameters(), *network.buffers()]) as counter, torch.no_grad():
        WanDenoiser(network)(x, sigma, cond)
    found = sampling(config, SHAPE)
    assert found.videos == 20 and found.weights == sum(p.nbytes for p in network.parameters())
    assert found.forward == pytest.approx(counter.most, rel=0.05)
    assert found.tensor == max(p.nbytes for p in network.parameters())


@pytest.mark.parametrize(
    ("weights", "forward", "videos", "free", "gpus", "most", "remedy"),
    [
        (10, 100, 10, 40, 1, 8, "evaluate.batch=3"),
        (40, 10, 1, 35, 1, 8, "evaluate.gpus=2"),
        (40, 10, 1, 35, 1, 1, None),  # a node has one GPU
        (40, 100, 10, 35, 1, 2, "evaluate.gpus=2 evaluate.batch=1"),
        (40, 10, 1, 17, 2, 16, "evaluate.gpus=16"),
        (40, 10, 1, 9, 1, 8, None),
    ],
)
def test_the_change_with_which_a_task_fits(weights, forward, videos, free, gpus, most, remedy):
    assert Sampling(weights, forward, 1, videos).remedy(free, gpus, most) == remedy


@pytest.mark.parametrize(
    ("decode", "tiled", "videos", "free", "remedy"),
    [
        (100, 20, 1, 70, "model.vae_tiling=true"),
        (100, 20, 2, 100, "evaluate.batch=1"),  # without tiles, which change pixels
        (100, 20, 2, 70, "evaluate.batch=1 model.vae_tiling=true"),
        (100, 20, 1, 50, "evaluate.gpus=2 model.vae_tiling=true"),
        (100, 20, 1, 29, None),
        (100, 100, 1, 70, None),  # by tiles already
    ],
)
def test_the_change_with_which_decoding_fits(decode, tiled, videos, free, remedy):
    task = Sampling(40, 5, 1, videos, codec=5, decode=decode, tiled=tiled)
    assert task.total == 40 + 5 + decode and task.remedy(free, 1, 2) == remedy


def test_guidance_of_any_kind_doubles_the_videos_of_a_call():
    plain, sound, low = (
        sampling(load_config(CONFIGS / "quickstart.yaml", ["evaluate.teacher_guidance=1", *more], {}).config, SHAPE)
        for more in ([], ["evaluate.teacher_audio_guidance=3"], ["evaluate.teacher_guidance_low=2"])
    )
    assert sound.forward == low.forward > 1.8 * plain.forward


def test_plan_says_what_an_evaluation_needs():
    config = load_config(CONFIGS / "wan2.1_14b/dmd_shared_base.yaml", [], {}).config
    small, _ = plan(config, {"cluster": "8xRTX4090-24GB"})
    assert "warning: more than the 22.1 GiB of a GPU that are free; set evaluate.gpus=2\n" in small
    spread = load_config(CONFIGS / "wan2.1_14b/dmd_shared_base.yaml", ["evaluate.gpus=2"], {}).config
    fits, _ = plan(spread, {"cluster": "8xRTX4090-24GB"})
    assert "on each of 2 GPUs in batches of 1: weights 13.3, codec 0.5" in fits and "evaluate.gpus" not in fits
