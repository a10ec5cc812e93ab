"""Motion of a video by dense optical flow: speed of the picture and of its fastest part, and whether it moves.

Farnebäck's flow (Two-Frame Motion Estimation Based on Polynomial Expansion, 2003) as OpenCV computes it.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch

SHORT_SIDE = 256  # short side, in pixels, to which larger frames are shrunk
WINDOW = 9  # rows and columns that move together
FASTEST = 0.05  # share of pixels that motion_top averages
MOVES = 6 / 256  # VBench's threshold of a moving pair, in short sides


def motions(video: np.ndarray, fps: float) -> dict[str, float]:
    """``motion`` and ``motion_top`` of uint8 frames [T, H, W, 3], in short sides of the picture per second, and
    ``moving``, 0 or 1: docs/metrics.md defines them. A video of one frame has no motion.

    ``motion`` weighs each pixel by the smaller eigenvalue of the gradients around it (Shi and Tomasi, 1994): flat
    patches and plain edges, whose motion no local method knows, count little.
    """
    frames = _grey(video)
    means, tops = [], []
    for first, second in zip(frames, frames[1:], strict=False):
        lengths = _flow_lengths(first, second)
        weights = cv2.cornerMinEigenVal(cv2.addWeighted(first, 0.5, second, 0.5, 0), WINDOW)
        total = float(weights.sum())
        means.append(float((weights * lengths).sum()) / total if total > 0 else 0.0)
        tops.append(_top(lengths))
    every = max(1, round(fps / 8))
    sampled = frames[::every]
    least = max(1, round(4 * len(sampled) / 16))  # a short clip would need no pair
    strides = tops if every == 1 else [_top(_flow_lengths(*pair)) for pair in zip(sampled, sampled[1:], strict=False)]
    return {
        "motion": fps * float(np.mean(means or [0.0])),
        "motion_top": fps * float(np.mean(tops or [0.0])),
        "moving": float(sum(top > MOVES for top in strides) >= least),
    }


def _grey(video: np.ndarray) -> Sequence[np.ndarray]:
    """uint8 luma [H, W] of each frame, shrunk to a short side of at most 256 pixels."""
    luma = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in video]
    factor = min(video.shape[1:3]) / SHORT_SIDE
    size = (round(video.shape[2] / factor), round(video.shape[1] / factor))
    return [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in luma] if factor > 1 else luma


def _flow_lengths(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Lengths [H, W] of the flow between two grey frames, in short sides of the picture."""
    cv2.setNumThreads(torch.get_num_threads())  # OpenCV would take every core of the machine
    flow = cv2.calcOpticalFlowFarneback(first, second, None, 0.5, 4, WINDOW, 3, 5, 1.1, 0)  # type: ignore[call-overload]
    lengths: np.ndarray = np.hypot(flow[..., 0], flow[..., 1]) / min(first.shape)
    return lengths


def _top(lengths: np.ndarray) -> float:
    """The mean of the longest 5 %."""
    count = max(1, int(FASTEST * lengths.size))
    return float(np.partition(lengths, -count, axis=None)[-count:].mean())
