"""LTX-2's hidden features of picture and sound, and DMD2's GAN term on them."""

import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from ray_distill.diffusion.losses import adversarial_loss, divergence_weight
from ray_distill.diffusion.prefix import generated_features
from ray_distill.methods import DMD, GAN
from ray_distill.models import family
from ray_distill.models.heads import FeatureDiscriminator, head_blocks, random_heads
from ray_distill.models.ltx2.network import LTX2Denoiser
from ray_distill.models.packed import modalities, picture, prefix_length, tensor_shape, with_layout
from ray_distill.rng import StatelessRng
from ray_distill.types import Batch

sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))
import tiny_ltx2

RNG, IDS = StatelessRng(0), torch.arange(2)
LATENT = (tiny_ltx2.CHANNELS, 2, 2, 3, 7)
WHERE, TOKENS, SOUND = modalities(LATENT), 12, 7
WIDTHS = (32, 16)
SIGMA = torch.tensor([0.757, 0.3])


def network(layers=2, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return tiny_ltx2.make_transformer(layers)


def inputs(from_image=False):
    text = RNG.noise("text", IDS, (8, tiny_ltx2.WIDTH))
    cond = with_layout({"text": text, "audio_text": text.flip(1)}, LATENT)
    if from_image:
        cond |= {"first": RNG.noise("first", IDS, (LATENT[0], *LATENT[2:4]))}
    return RNG.noise("x", IDS, tensor_shape(LATENT)), SIGMA, cond


def entering_the_last_layers(module, *args):
    """What one call gives the last norm of the picture and that of the sound."""
    outputs, norms = [], (module.norm_out, module.audio_norm_out)
    hooks = [norm.register_forward_pre_hook(lambda _, given: outputs.append(given[0])) for norm in norms]
    velocity = LTX2Denoiser(module)(*args).velocity
    for hook in hooks:
        hook.remove()
    return velocity, outputs


@torch.no_grad()
@pytest.mark.parametrize("from_image", [False, True])
def test_features_are_what_the_blocks_return(from_image):
    """Of the last block they are what the last layers take; of the first, what a network of this block alone gives
    them. The velocity is that of a call without features."""
    whole, alone = network(2), network(1)
    alone.load_state_dict(whole.state_dict(), strict=False)
    given = inputs(from_image)
    velocity, last = entering_the_last_layers(whole, *given)
    _, first = entering_the_last_layers(alone, *given)
    seen = LTX2Denoiser(whole)(*given, features=(1, 0))
    assert torch.equal(seen.velocity, velocity) and LTX2Denoiser(whole)(*given).features == ()
    for feature, expected in zip(seen.features, (*last, *first), strict=True):
        assert torch.equal(feature, expected)
    shapes = [(2, TOKENS, WIDTHS[0]), (2, SOUND, WIDTHS[1])]
    assert [feature.shape for feature in seen.features] == shapes * 2
    assert family("ltx2").features(whole.config) == (2, WIDTHS)
    assert not any(block._forward_hooks for block in whole.transformer_blocks)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_flow_through_the_features_of_each_modality(checkpointing):
    """To the picture and to the sound, and to no later block."""
    x_t, sigma, cond = inputs()
    x_t.requires_grad_()
    alone, whole = network(1), network(2).train()
    alone.load_state_dict(whole.state_dict(), strict=False)
    if checkpointing:
        whole.enable_gradient_checkpointing()
    for which in range(2):
        _, expected = entering_the_last_layers(alone, x_t, sigma, cond)
        (aim,) = torch.autograd.grad(expected[which].square().mean(), x_t)
        whole.zero_grad()
        feature = LTX2Denoiser(whole)(x_t, sigma, cond, features=(0,)).features[which]
        feature.square().mean().backward()
        torch.testing.assert_close(x_t.grad, aim, rtol=1e-5, atol=1e-9)
        assert all(x_t.grad[:, :, where].any() for where in WHERE.values())
        assert all(p.grad is None for p in whole.transformer_blocks[1].parameters())
        x_t.grad = None


def test_what_features_cannot_do_is_named():
    with pytest.raises(ValueError, match=r"features = .*the network has blocks 0 to 1, and no 2"):
        LTX2Denoiser(network())(*inputs(), features=(2,))
    with pytest.raises(ValueError, match="model.family = 'ltx2': no causal calls and no features"):
        LTX2Denoiser(network())(*inputs(), features=(0,), read=True)


# DMD2's GAN term


def roles(method):
    modules = {role: network(2, seed) for seed, role in enumerate(("student", "fake_score", "teacher"), 1)}
    networks = {role: LTX2Denoiser(module) for role, module in modules.items()}
    heads = method.heads["discriminator"]
    blocks, widths = head_blocks("discriminator", heads, "ltx2", modules["teacher"].config)
    modules["discriminator"] = random_heads(len(blocks), widths, 0)
    networks["discriminator"] = FeatureDiscriminator(modules["discriminator"], torch.float32, blocks)
    return modules, networks


def rows(from_image=False, **more):
    _, _, cond = inputs()
    x_0, prefix = RNG.noise("data", IDS, tensor_shape(LATENT)), 0
    if from_image:
        cond, prefix = {**cond, "first": picture(x_0, LATENT)[:, :, 0]}, prefix_length(1, LATENT)
    given = {"x_0": x_0, "modalities": WHERE, "prefix": prefix} | more
    return Batch(IDS, tensor_shape(LATENT), cond, {**cond, "text": 0 * cond["text"]}, **given)


@contextmanager
def training(modules, role):
    for name, module in modules.items():
        module.requires_grad_(name == role)
    yield
    for module in modules.values():
        module.requires_grad_(True)


@pytest.mark.parametrize("from_image", [False, True])
@pytest.mark.parametrize("features", ["teacher", "fake_score"])
def test_each_update_moves_its_own_role_alone_and_equal_seeds_are_equal(features, from_image):
    """All heads learn, those of the sound as well."""
    trunk = 0.1 if features == "fake_score" else 0.0
    method = GAN(gan_features=features, gan_trunk_weight=trunk, gan_r1_weight=0.1, gan_depths=(0.5, 1.0))
    given = rows(from_image)
    for role in ("student", "fake_score", "discriminator"):
        modules, networks = roles(method)
        loss = getattr(method, f"{role}_loss")
        with training(modules, role):
            terms = loss(networks, given, RNG, {})
            terms.loss.backward()
            # Within the block: on some CPUs kernels of trained and frozen layers differ in the last digit.
            again, other = (loss(networks, given, StatelessRng(seed), {}).loss for seed in (0, 1))
        gradients = {name: [p.grad is not None and p.grad.any() for p in m.parameters()] for name, m in modules.items()}
        assert {name for name, each in gradients.items() if any(each)} == {role}
        assert torch.equal(again, terms.loss) and not torch.equal(other, terms.loss)
    assert all(gradients["discriminator"]) and len(modules["discriminator"].heads) == 4


def test_the_students_gan_gradient_comes_through_the_features_of_both_modalities():
    """Equal scores leave nothing else: with the weight of one modality 0, what remains is the other's."""
    gradients = {}
    for name, weights in {"both": {}, "video": {"audio_weight": 0.0}, "audio": {"video_weight": 0.0}}.items():
        method = GAN(teacher_guidance=1.0, **weights)
        modules, networks = roles(method)
        modules["fake_score"].load_state_dict(modules["teacher"].state_dict())
        with training(modules, "student"):
            terms = method.student_loss(networks, rows(), RNG, {})
            terms.loss.backward()
        gradients[name] = torch.cat([p.grad.flatten() for p in modules["student"].parameters() if p.grad is not None])
    assert gradients["video"].any() and gradients["audio"].any()
    torch.testing.assert_close(gradients["video"] + gradients["audio"], gradients["both"], rtol=1e-3, atol=1e-7)


class Fixed:
    """A judge whose logit is 2 for the picture's 12 tokens and -1 for the sound's 7, times ``scale``."""

    blocks = (0,)

    def __init__(self, scale=1.0):
        self.scale = scale

    def __call__(self, features):
        video, audio = (
            (level * self.scale).expand(2, 1, x.shape[1]) for level, x in zip(LEVELS, features, strict=True)
        )
        return torch.cat([video, audio], dim=2)


LEVELS = torch.tensor([[[2.0]], [[-1.0]]])


def test_each_modality_has_a_mean_of_its_own():
    """softplus(-2) + softplus(1) for the student; over all tokens together the mean would be another."""
    method = GAN((1000.0,), teacher_guidance=1.0, gan_weight=1.0, audio_weight=0.5)
    _, networks = roles(method)
    networks["discriminator"] = Fixed()
    logs = method.student_loss(networks, rows(), RNG, {}).logs
    parts = [adversarial_loss(level, True, "softplus").item() for level in LEVELS]
    assert logs["gan_video_loss"].item() == pytest.approx(parts[0])
    assert logs["gan_audio_loss"].item() == pytest.approx(0.5 * parts[1])
    assert logs["gan_loss"].item() == pytest.approx(parts[0] + 0.5 * parts[1])
    terms = method.discriminator_loss(networks, rows(), RNG, {})
    costs = [
        part + adversarial_loss(level, False, "softplus").item() for part, level in zip(parts, LEVELS, strict=True)
    ]
    assert terms.loss.item() == pytest.approx(costs[0] + 0.5 * costs[1])
    joint = method.student_loss(networks, rows(modalities={}), RNG, {}).logs["gan_loss"].item()
    assert joint == pytest.approx((TOKENS * parts[0] + SOUND * parts[1]) / (TOKENS + SOUND))  # the fault


def test_f_distill_gives_a_clip_one_weight_of_both_modalities():
    """r = exp of the mean of the modalities' mean logits, (2 - 1) / 2."""
    method = GAN(divergence="kl")
    _, networks = roles(method)
    networks["discriminator"] = Fixed()
    x = rows().x_0
    weight = method.weight(x, SIGMA, networks, rows())
    assert weight.tolist() == pytest.approx(divergence_weight(torch.full((2, 1), 0.5), "kl").tolist())
    assert GAN().weight(x, SIGMA, networks, rows()) is None


def test_the_discriminator_sees_no_token_of_a_given_picture():
    """Six of the picture's twelve tokens, and all of the sound's seven."""
    method = GAN(gan_r1_weight=1.0)
    _, networks = roles(method)
    shown, judge = [], networks["discriminator"]

    def look(*features):
        shown.append([x.shape[1] for x in features])
        return judge.network(*features)

    networks["discriminator"] = FeatureDiscriminator(look, torch.float32, judge.blocks)
    for loss in (method.student_loss, method.discriminator_loss):
        assert loss(networks, rows(from_image=True), RNG, {}).loss.isfinite()
    assert len(shown) == 4 and all(counts == [6, SOUND] for counts in shown)
    hidden = tuple(torch.arange(float(n)).view(1, n, 1) for n in (TOKENS, SOUND, TOKENS, SOUND))
    cut = generated_features(hidden, TOKENS + SOUND, WHERE, 6)
    assert [x.flatten()[0].item() for x in cut] == [6, 0, 6, 0] and [x.shape[1] for x in cut] == [6, SOUND] * 2


def test_without_weight_the_student_learns_as_in_plain_dmd_bit_for_bit():
    _, networks = roles(GAN())
    plain, method = (each.student_loss(networks, rows(), RNG, {}) for each in (DMD(), GAN(gan_weight=0.0)))
    assert torch.equal(plain.loss, method.loss)
