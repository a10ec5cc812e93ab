"""Measures by networks of the user's own: consistency over time, agreement with the prompt, features of videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ray_distill.evaluate.metrics.networks import load_network

CONSISTENCY = {"subject": "subject_consistency", "background": "background_consistency"}


def consistency(features: Tensor) -> float:
    """mean over t >= 2 of (max(cos(f_t, f_(t-1)), 0) + max(cos(f_t, f_1), 0)) / 2 of unit features [T, D], T >= 2
    (VBench, arXiv 2311.17982)."""
    to_last, to_first = (features[1:] * features[:-1]).sum(-1), (features[1:] * features[:1]).sum(-1)
    return float((to_last.clamp(min=0) + to_first.clamp(min=0)).mean() / 2)


def agreement(features: Tensor, text: Tensor) -> float:
    """Mean over the frames of cos(f_t, text), of unit features [T, D] and [D]; the cosine of the mean feature would be
    larger for frames that differ."""
    return float((features @ text).mean())


@torch.no_grad()
def network_measures(
    videos: np.ndarray, prompts: Sequence[str], folders: Mapping[str, Path], device: torch.device
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Measures fp64 [N] by name of uint8 videos [N, T, H, W, 3], by the networks that ``folders`` names, and features
    fp32 [N, D] of whole videos, None without a video network. One folder under several keys is run once."""
    images = {folders[key] for key in (*CONSISTENCY, "text") if key in folders}
    texts = load_network(folders["text"], device).text_features(prompts) if "text" in folders else None
    rows: dict[str, list[float]] = {}
    whole: list[Tensor] = []
    for number, video in enumerate(videos):
        seen = {folder: load_network(folder, device).image_features(video) for folder in images}
        for key, name in CONSISTENCY.items():
            if key in folders:
                rows.setdefault(name, []).append(consistency(seen[folders[key]]))
        if texts is not None:
            rows.setdefault("text_agreement", []).append(agreement(seen[folders["text"]], texts[number]))
        if "video" in folders:
            whole.append(load_network(folders["video"], device).video_features(video))
    measured = {name: torch.tensor(values, dtype=torch.float64) for name, values in rows.items()}
    return measured, torch.stack(whole) if whole else None
