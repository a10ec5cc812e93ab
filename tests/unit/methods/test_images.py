"""Every method takes images: the conditions of Wan 2.1 I2V, beside each frame, reach every network in both branches."""

import pytest
import torch
from diffusers import WanTransformer3DModel

from ray_distill.methods import METHODS
from ray_distill.models.heads import FeatureDiscriminator, head_blocks, random_heads
from ray_distill.models.wan.network import WanDenoiser
from ray_distill.rng import StatelessRng
from tests.tiny_wan import SHAPE
from tests.unit.toys import batch

RNG = StatelessRng(0)
CHANNELS, WIDTH, STATES = SHAPE[0], 8, (3, 6)
CAUSAL = {"num_frame_per_block": 1}
SETTINGS = {name: CAUSAL for name, method in METHODS.items() if hasattr(method, "num_frame_per_block")}
SETTINGS["dmd_phased"] = {"high_steps": 5}


def from_image(seed):
    """A network with a mask, the picture's latents and CLIP's states beside its noisy channels."""
    torch.manual_seed(seed)
    return WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4 + 2 * CHANNELS,
        out_channels=CHANNELS,
        text_dim=WIDTH,
        image_dim=STATES[1],
        added_kv_proj_dim=24,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
    )


class Watched:
    """A denoiser that notes the conditions of each call."""

    def __init__(self, role, network, calls):
        self.role, self.denoise, self.calls = role, WanDenoiser(network), calls

    def __call__(self, x_t, sigma, cond, **how):
        self.calls.append((self.role, cond))
        return self.denoise(x_t, sigma, cond, **how)


@pytest.mark.parametrize("name", METHODS)
def test_the_image_reaches_every_network_in_both_branches(name):
    method, calls = METHODS[name](**SETTINGS.get(name, {})), []
    modules = {role: from_image(seed) for seed, role in enumerate(method.roles) if role not in method.heads}
    networks = {role: Watched(role, module, calls) for role, module in modules.items()}
    for role, heads in method.heads.items():
        blocks, widths = head_blocks(role, heads, "wan", modules["student"].config)
        modules[role] = random_heads(len(blocks), widths, 0)
        networks[role] = FeatureDiscriminator(modules[role], torch.float32, blocks)
    ids = torch.arange(2)
    image = {"held": RNG.noise("held", ids, SHAPE), "image": RNG.noise("image", ids, STATES)}
    text = RNG.noise("text", ids, (512, WIDTH))
    cond, uncond = {"text": text, **image}, {"text": 0 * text, **image}
    rows = batch(range(2), SHAPE, x_0=RNG.noise("x_0", ids, SHAPE), cond=cond, uncond=uncond)
    updates = {(u.role, u.loss.__name__): u for step in range(sum(method.period)) for u in method.updates(step)}
    asked, branches = set(), set()
    for (role, _), update in updates.items():
        calls.clear()
        loss = update.loss(networks, rows, RNG, {}).loss
        loss.backward()
        assert loss.isfinite() and any(p.grad is not None and p.grad.any() for p in modules[role].parameters()), role
        for seen, cond in calls:
            asked.add(seen)
            branches |= {seen for half in cond["text"].split(2) if not half.any()}
            for field, value in image.items():
                assert all(torch.equal(half, value) for half in cond[field].split(2)), (seen, field)
    trained = {role for role, need in method.roles.items() if need == "trained"} - method.heads.keys()
    assert trained <= asked and {role for role in method.roles if "teacher" in role} <= branches
