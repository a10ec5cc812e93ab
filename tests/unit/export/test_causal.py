"""A causal student is exported with a script that samples it chunk by chunk, with diffusers alone."""

import ast
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan

from ray_distill.diffusion.samplers import sample, sample_chunks
from ray_distill.export.verify import verify
from ray_distill.models.wan.codec import WanVAE
from ray_distill.models.wan.network import WanDenoiser
from ray_distill.types import Chunks, Sampler, Window
from tests.scripts import run
from tests.unit.export.test_export import export, make_base, make_transformer

RECIPES = {
    "sde": Sampler((1000.0, 757.0, 522.0), "sde", chunks=Chunks(1)),
    "ode": Sampler((1000.0, 500.0), "ode", chunks=Chunks(2, independent_first=True)),
    "noised": Sampler((1000.0, 700.0), "sde", chunks=Chunks(1, context_timestep=100.0)),
    "window": Sampler(
        (1000.0, 700.0), "sde", chunks=Chunks(1, window=Window(2), first_timesteps=(1000.0, 900.0, 500.0))
    ),
    "guided": Sampler((1000.0, 500.0), "ode", 3.0, Chunks(1, window=Window(2, 1))),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("teacher"), vae=None)


def small_vae():
    torch.manual_seed(0)
    statistics = {"latents_mean": [0.1] * 4, "latents_std": [0.9] * 4}
    return AutoencoderKLWan(base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, **statistics)


@pytest.mark.parametrize("kind", RECIPES)
def test_the_scripts_rollout_is_our_sampler(tmp_path, base, kind, monkeypatch):
    sampler, shape = RECIPES[kind], (1, 4, 3, 6, 4)
    folder = export(tmp_path / "student", base, sampler)
    network, recipe = make_transformer(2), json.loads((folder / "recipe.json").read_text())
    text = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(0))
    guided = sampler.guidance_scale != 1.0
    roll_out = run(folder, monkeypatch)["roll_out"]

    def theirs(**wrong):
        torch.manual_seed(3)
        return roll_out(network, text if guided else text[:1], recipe | wrong)

    torch.manual_seed(3)
    prompts = {"text": text[:1]}, {"text": text[1:]}
    ours = sample(WanDenoiser(network), sampler, torch.randn(shape), *prompts, noise=lambda _: torch.randn(shape))
    assert (theirs() - ours).abs().max() < 1e-4
    at_once = {"chunks": recipe["chunks"] | {"frames": 3, "independent_first": False}}
    assert (theirs(**at_once) - ours).abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["noised", "guided"])
def test_verify_knows_chunks(tmp_path, base, scripts_in_process, kind):
    folder = export(tmp_path / "student", base, RECIPES[kind])
    assert verify(folder, "three moving left", seed=3) < 1e-4


def test_a_long_clip_is_rolled_out_by_chunks_as_our_sampler_does(tmp_path, base, monkeypatch):
    """Noise is drawn chunk by chunk, so that a clip has no end; and it is decoded as a whole one is."""
    sampler = Sampler((1000.0, 700.0), "sde", chunks=Chunks(1, True, 50.0, Window(2)))
    folder = export(tmp_path / "student", base, sampler)
    network, recipe = make_transformer(2), json.loads((folder / "recipe.json").read_text())
    text, lengths = torch.randn(1, 8, 16, generator=torch.Generator().manual_seed(0)), (1,) * 6
    script = run(folder, monkeypatch)

    def noise(i, where):
        return torch.randn(1, 4, where.stop - where.start, 6, 4)

    torch.manual_seed(3)
    theirs = torch.cat([*script["roll"](network, text, recipe, lengths, noise)], dim=2)
    torch.manual_seed(3)
    ours = torch.cat([*sample_chunks(WanDenoiser(network), sampler, lengths, {"text": text}, None, noise)], dim=2)
    assert theirs.shape == (1, 4, 6, 6, 4) and (theirs - ours).abs().max() < 1e-4

    vae = small_vae()
    whole = WanVAE(vae).decode(ours)
    for parts in (WanVAE(vae).decode_chunks(ours.split(2, dim=2)), WanVAE(vae).decode_chunks([ours])):
        torch.testing.assert_close(torch.cat([*parts], dim=2), whole, atol=1e-5, rtol=0)
    frames = torch.cat([torch.from_numpy(x) for x in script["decode"](vae, ours.split(1, dim=2))])
    torch.testing.assert_close(frames, (whole[0] / 2 + 0.5).permute(1, 2, 3, 0), atol=1e-5, rtol=0)

    class Writer:
        def __init__(self, out, **_):
            self.written = written

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def append_data(self, frame):
            self.written.append(frame)

    written = []
    monkeypatch.setitem(sys.modules, "imageio", SimpleNamespace(v2=SimpleNamespace(get_writer=Writer)))
    monkeypatch.setitem(sys.modules, "imageio.v2", sys.modules["imageio"].v2)
    torch.manual_seed(3)
    script["write_long"](SimpleNamespace(vae=vae), network, text, recipe, 18, "out.mp4")
    assert len(written) == 18
    shown = torch.from_numpy(np.stack(written)).float() / 255
    torch.testing.assert_close(shown, frames[:18].float(), atol=0.5 / 255 + 1e-4, rtol=0)


def test_the_folder_needs_diffusers_alone(tmp_path, base):
    folder = export(tmp_path / "student", base, RECIPES["ode"])
    recipe = json.loads((folder / "recipe.json").read_text())
    cut = {"frames": 2, "independent_first": True, "context_timestep": 0.0}
    assert recipe["chunks"] == cut | {"window": None, "first_timesteps": []}
    assert json.loads((folder / "transformer" / "config.json").read_text())["_class_name"] == "WanTransformer3DModel"
    card = (folder / "README.md").read_text()
    assert "A causal student" in card and "3 network evaluations" in card
    foreign = set()
    for script in ("sample.py", "causal_wan.py"):
        nodes = [node for node in ast.parse((folder / script).read_text()).body if not isinstance(node, ast.If)]
        names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        names += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
        foreign |= {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
    assert foreign == {"torch", "diffusers", "safetensors", "causal_wan"}


@pytest.mark.slow
def test_with_a_vae_the_script_writes_a_video(tmp_path, monkeypatch):
    pytest.importorskip("imageio_ffmpeg", reason="diffusers writes videos through imageio-ffmpeg")
    import av

    folder = export(tmp_path / "student", make_base(tmp_path / "teacher", small_vae()), RECIPES["window"])
    out = tmp_path / "out.mp4"
    for asked, wanted in (((1,), 9), ((1, 25), 25)):  # the second by chunks, longer than the recipe's clips
        run(folder, monkeypatch, "seven moving right", out, *asked)
        with av.open(str(out)) as video:
            frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        assert len(frames) == wanted and frames[0].shape == (48, 32, 3)
