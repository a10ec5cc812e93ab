"""Motion of a video by dense optical flow: speed of the picture and of its fastest part, and whether it moves.

Farnebäck's flow (Two-Frame Motion Estimation Based on Polynomial Expansion, 2003) as OpenCV computes it.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

SHORT_SIDE = 256  # short side, in pixels, to which larger frames are shrunk
WINDOW = 9  # rows and columns that move together
FASTEST = 0.05  # share of pixels that motion_top averages
MOVES = 6 / 256  # VBench's threshold of a moving pair, in short sides
Flow = Callable[[np.ndarray], np.ndarray]
"""Lengths fp32 [T - 1, h, w] of the flow from each of the uint8 frames [T, h, w, 3] to the next, in short sides of the
picture."""


def farneback(frames: np.ndarray) -> np.ndarray:
    """Farnebäck's :data:`Flow`: 4 levels, windows of 9 pixels."""
    luma = grey(frames)
    lengths = np.empty((len(luma) - 1, *luma.shape[1:]), np.float32)
    for length, first, second in zip(lengths, luma, luma[1:], strict=False):
        flow = cv2.calcOpticalFlowFarneback(first, second, None, 0.5, 4, WINDOW, 3, 5, 1.1, 0)  # type: ignore[call-overload]
        cv2.magnitude(flow[..., 0], flow[..., 1], magnitude=length)
    return lengths / min(luma.shape[1:])


def motions(video: np.ndarray, fps: float, flow: Flow = farneback) -> dict[str, float]:
    """``motion`` and ``motion_top`` of uint8 frames [T, H, W, 3], in short sides of the picture per second, and
    ``moving``, 0 or 1: docs/metrics.md defines them. A video of one frame has no motion.

    ``motion`` weighs each pixel by the smaller eigenvalue of the gradients around it (Shi and Tomasi, 1994): flat
    patches and plain edges, whose motion no local method knows, count little.
    """
    frames = _shrunk(video)
    lengths, luma = flow(frames), grey(frames)
    weights = np.empty(lengths.shape, np.float32)
    for weight, first, second in zip(weights, luma, luma[1:], strict=False):
        cv2.cornerMinEigenVal(cv2.addWeighted(first, 0.5, second, 0.5, 0), WINDOW, dst=weight)
    # Sums not by OpenCV, whose sums of floats depend on their place in memory.
    totals, sums = (_rows(each).sum(1) for each in (weights, weights * lengths))
    means = np.divide(sums, totals, out=np.zeros(len(sums)), where=totals > 0, dtype=np.float64)
    tops = _tops(lengths)
    every = max(1, round(fps / 8))
    sampled = frames[::every]
    least = max(1, round(4 * len(sampled) / 16))  # a short clip would need no pair
    strides = tops if every == 1 else _tops(flow(sampled))
    return {
        "motion": fps * _mean(means),
        "motion_top": fps * _mean(tops),
        "moving": float(np.count_nonzero(strides > MOVES) >= least),
    }


def grey(video: np.ndarray) -> np.ndarray:
    """The luma, uint8 [T, H, W], of uint8 frames [T, H, W, 3]."""
    frames, height, width, _ = video.shape
    luma: np.ndarray = cv2.cvtColor(video.reshape(frames * height, width, 3), cv2.COLOR_RGB2GRAY)
    return luma.reshape(frames, height, width)


def _shrunk(video: np.ndarray) -> np.ndarray:
    """The frames [T, h, w, 3], with a short side of at most 256 pixels."""
    factor = min(video.shape[1:3]) / SHORT_SIDE
    if factor <= 1:
        return video
    size = (round(video.shape[2] / factor), round(video.shape[1] / factor))
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in video])


def _tops(lengths: np.ndarray) -> np.ndarray:
    """The mean [N] of the longest 5 % of each of ``lengths`` [N, h, w]."""
    rows = _rows(lengths)
    count = max(1, int(FASTEST * rows.shape[1]))
    # In fp64: numpy's partition gives the longest in no fixed order.
    tops: np.ndarray = np.partition(rows, -count, axis=1)[:, -count:].mean(1, dtype=np.float64)
    return tops


def _rows(maps: np.ndarray) -> np.ndarray:
    """``maps`` [N, h, w] as [N, h w]."""
    return maps.reshape(len(maps), maps.shape[1] * maps.shape[2])


def _mean(values: np.ndarray) -> float:
    """The mean over pairs of frames; 0 without a pair."""
    return float(values.mean(dtype=np.float64)) if len(values) else 0.0
