"""HunyuanVideo 1.5's network, diffusers' HunyuanVideo15Transformer3DModel, behind Denoiser.

The network takes as channels the noisy latents, an image's latents, and a mask of the frames that the image gives; it
takes as tokens the prompt, the words that the prompt quotes, and the image. Text to video has zeros for everything of
the image. An image's latents lie in the first frame, in which the noisy latents stay noisy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake

from ray_distill.models.causal import check_plain
from ray_distill.models.sequence import own_tokens
from ray_distill.types import Cache, Cond, History, Prediction, Window


@dataclass(frozen=True)
class HunyuanDenoiser:
    """``network`` is a HunyuanVideo15Transformer3DModel or an engine that wraps one; it predicts the velocity at 1000
    sigma.

    Latents and timestep enter in the network's own dtype, as in the pipeline: bf16 rounds 937.5 to 936. The velocity is
    returned in the dtype of ``x_t``.
    """

    network: Any
    dtype: torch.dtype = torch.float32

    def __call__(
        self,
        x_t: Tensor,
        sigma: Tensor,
        cond: Cond,
        *,
        chunks: Sequence[int] = (),
        cache: Cache | None = None,
        remember: bool = False,
        window: Window | None = None,
        history: History | None = None,
        features: Sequence[int] = (),
        read: bool = False,
    ) -> Prediction:
        """ValueError for a causal call, for features, and for levels that differ by frame."""
        check_plain("hunyuan15", chunks, cache, features)
        if sigma.ndim == 2:
            raise ValueError("model.family = 'hunyuan15': all frames have one level; use another method, or family wan")
        latents = x_t.to(self.dtype)
        channels, image = self._image(latents, cond)
        forward = WithoutData(self.network, "image" in cond) if is_fake(latents) else self.network
        with own_tokens(self.network, "x_embedder", "proj_out"):
            (velocity,) = forward(
                hidden_states=torch.cat([latents, channels], dim=1),
                timestep=(1000 * sigma).to(self.dtype),
                encoder_hidden_states=cond["text"].to(self.dtype),
                encoder_attention_mask=cond["text_mask"],
                encoder_hidden_states_2=cond["glyphs"].to(self.dtype),
                encoder_attention_mask_2=cond["glyphs_mask"],
                image_embeds=image,
                return_dict=False,
            )
        return Prediction(velocity.to(x_t.dtype))

    def _image(self, latents: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        """(channels [B, C + 1, T, h, w] behind the noisy ones: the image's latents and mask; tokens [B, L, D] of the
        image)."""
        rows, count, *size = latents.shape
        channels = latents.new_zeros(rows, count + 1, *size)
        if "image" not in cond:
            return channels, latents.new_zeros(rows, 1, self.network.config["image_embed_dim"])  # masked, however many
        channels[:, :count, 0], channels[:, count, 0] = cond["first"].to(latents), 1
        return channels, cond["image"].to(latents)


@dataclass(frozen=True)
class WithoutData:
    """The forward of a ``network`` on tensors without data, with an image or for text alone, for ``plan`` to count.

    The network's own forward depends on values: it tests whether there is an image, and puts valid tokens of text
    first. Attention does not depend on the order of text, so that a mask in the original order gives the same result.
    """

    network: Any
    from_image: bool

    def __call__(
        self,
        *,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor,
        encoder_hidden_states_2: Tensor,
        encoder_attention_mask_2: Tensor,
        image_embeds: Tensor,
        return_dict: bool = False,
    ) -> tuple[Tensor]:
        """The velocity [B, C, T, H, W] for latents [B, C, T, H, W], texts [B, L, D] and their masks [B, L]."""
        net, size = self.network, hidden_states.shape[2:]
        positions, level, tokens = net.rope(hidden_states), net.time_embed(timestep), net.x_embedder(hidden_states)
        texts = (
            net.context_embedder(encoder_hidden_states, timestep, encoder_attention_mask),
            net.context_embedder_2(encoder_hidden_states_2),
            net.image_embedder(image_embeds) * float(self.from_image),
        )
        kinds = [torch.full(text.shape[:2], i, device=text.device) for i, text in enumerate(texts)]
        text = torch.cat([x + net.cond_type_embed(kind) for x, kind in zip(texts, kinds, strict=True)], dim=1)
        has_image = torch.full_like(kinds[2], self.from_image, dtype=torch.bool)
        mask = torch.cat([encoder_attention_mask, encoder_attention_mask_2, has_image], dim=1)
        checkpointed = torch.is_grad_enabled() and net.gradient_checkpointing
        for block in net.transformer_blocks:
            inputs = (tokens, text, level, mask, positions)
            tokens, text = net._gradient_checkpointing_func(block, *inputs) if checkpointed else block(*inputs)
        return (net.proj_out(net.norm_out(tokens, level)).transpose(1, 2).unflatten(2, size),)
