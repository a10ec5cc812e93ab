"""Networks that judge videos, from folders as transformers saves them: DINOv2, CLIP, VideoMAE and V-JEPA 2.

Weights come from safetensors alone, and no code of a folder runs. Frames are resized, cropped and normalised as the
folder's preprocessor says, in torch: transformers' own processor of V-JEPA 2 needs torchvision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ray_distill.errors import ConfigError
from ray_distill.evaluate.metrics.frames import Frames
from ray_distill.models.outlines import shapes_of
from ray_distill.models.parts import CONFIG, check_shapes, load_tokenizer, outline, read_config, stored_shapes

IMAGES = {"dinov2": "Dinov2Model", "dinov2_with_registers": "Dinov2WithRegistersModel", "clip": "CLIPModel"}
VIDEOS = {"videomae": "VideoMAEModel", "vjepa2": "VJEPA2Model"}
TEXTS = {"clip": "CLIPModel"}
KINDS: Mapping[str, Mapping[str, str]] = {
    "subject": IMAGES,
    "background": IMAGES,
    "text": TEXTS,
    "video": {**VIDEOS, **IMAGES},
}
"""The classes that each key of ``evaluate.networks`` takes, by the ``model_type`` of their config.json."""
BATCH = 32  # frames or clips of one forward


def check_network(key: str, folder: Path, where: str) -> None:
    """ConfigError, which begins with ``where``, unless ``folder`` has a whole network that ``key`` takes."""
    kinds = KINDS[key]
    config = read_config(folder / CONFIG, where)
    kind = str(config.get("model_type"))
    if kind not in kinds:
        named = ", ".join(f"{name} ({of})" for name, of in kinds.items())
        raise ConfigError(f"{where}: its config.json has model_type {kind!r}; this key takes {named}")
    of = _class(kinds[kind])
    network = outline(lambda values: of(of.config_class.from_dict(values)), config, where)
    check_shapes(stored_shapes(folder, "model", where), shapes_of(network.named_parameters()), where)
    Frames.read(folder, where)
    if key == "text":
        load_tokenizer(folder, f"{where}: its tokenizer")


def cut_prompts(folder: Path, prompts: Sequence[str]) -> int:
    """Number of ``prompts`` that CLIP in ``folder`` reads only in part, for its positions are fewer than their
    tokens."""
    tokens = load_tokenizer(folder, str(folder))(list(prompts), truncation=False, verbose=False)["input_ids"]
    longest = read_config(folder / CONFIG, str(folder)).get("text_config", {}).get("max_position_embeddings", 77)
    return sum(len(each) > longest for each in tokens)


@dataclass(frozen=True)
class Network:
    """A frozen network in evaluation mode, with the preparation of its frames."""

    model: Any
    frames: Frames
    folder: Path

    def image_features(self, video: np.ndarray) -> Tensor:
        """Unit features [T, D], fp32, of the uint8 frames [T, H, W, 3]."""
        pixels = self.frames(torch.from_numpy(video), self.model.device)
        features = torch.cat([self._image(part.to(self.model.dtype)).float() for part in pixels.split(BATCH)])
        return functional.normalize(features, dim=-1).cpu()

    def video_features(self, video: np.ndarray) -> Tensor:
        """A feature [D], fp32, of the uint8 frames [T, H, W, 3]: the mean over the tokens of a video network, and the
        mean over the frames of an image network's unit features."""
        if self.model.config.model_type not in VIDEOS:
            return self.image_features(video).mean(0)
        shown = video[self._chosen(len(video))]
        pixels = self.frames(torch.from_numpy(shown), self.model.device).to(self.model.dtype)
        more = {"skip_predictor": True} if self.model.config.model_type == "vjepa2" else {}
        tokens = self.model(pixels[None], **more).last_hidden_state[0]
        return tokens.float().mean(0).cpu()

    def text_features(self, prompts: Sequence[str]) -> Tensor:
        """Unit features [N, D], fp32, of ``prompts``; CLIP's tokenizer cuts them to 77 tokens."""
        longest = self.model.config.text_config.max_position_embeddings
        tokenizer = load_tokenizer(self.folder, str(self.folder))
        tokens = tokenizer(list(prompts), padding=True, truncation=True, max_length=longest, return_tensors="pt")
        outputs = self.model.text_model(**tokens.to(self.model.device))
        return functional.normalize(self.model.text_projection(outputs.pooler_output).float(), dim=-1).cpu()

    def _image(self, pixels: Tensor) -> Tensor:
        if self.model.config.model_type == "clip":
            projected: Tensor = self.model.visual_projection(self.model.vision_model(pixels).pooler_output)
            return projected
        pooled: Tensor = self.model(pixels).pooler_output
        return pooled

    def _chosen(self, frames: int) -> np.ndarray:
        """Numbers of the frames that a video network sees, evenly spaced from the first to the last: VideoMAE's fixed
        number, with repeats in a shorter clip, or at most V-JEPA 2's, in whole tubes."""
        config = self.model.config
        if config.model_type == "videomae":
            count = config.num_frames
        else:
            most = min(config.frames_per_clip, frames)
            count = max(most - most % config.tubelet_size, config.tubelet_size)
        return np.linspace(0, frames - 1, count).round().astype(int)


@lru_cache(maxsize=8)
def load_network(folder: Path, device: torch.device) -> Network:
    """The network of ``folder``, loaded once in a process: in bf16 on a GPU, else in fp32."""
    kind = read_config(folder / CONFIG, str(folder))["model_type"]
    of = _class({**IMAGES, **VIDEOS}[kind])
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    how: dict[str, Any] = {"use_safetensors": True, "local_files_only": True, "dtype": dtype}
    model, info = of.from_pretrained(folder, output_loading_info=True, **how)
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"{folder}: its weights lack {len(missing)} tensors of {of.__name__}, such as {missing[0]}")
    return Network(model.eval().requires_grad_(False).to(device), Frames.read(folder, str(folder)), folder)


def _class(name: str) -> Any:
    import transformers

    return getattr(transformers, name)
