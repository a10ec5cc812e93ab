"""Colour, light and flicker of a video, measured from its pixels alone."""

from __future__ import annotations

import cv2
import numpy as np

DARK = 26  # of 255: noise determines the saturation of darker pixels
BLACK, WHITE = 2, 253  # of 255: values at or beyond these are clipped


def colours(video: np.ndarray, fps: float) -> dict[str, float]:
    """``saturation``, ``chroma`` and ``clipped`` of uint8 frames [T, H, W, 3], shares in [0, 1]: docs/metrics.md."""
    most, least = video.max(-1), video.min(-1)
    difference = (most - least).astype(np.float64)
    bright = most >= DARK
    saturation = np.divide(difference, most, out=np.zeros_like(difference), where=bright).sum() / max(bright.sum(), 1)
    clipped = ((video <= BLACK) | (video >= WHITE)).mean()
    return {
        "saturation": float(saturation),
        "chroma": float(difference.mean() / 255),
        "clipped": float(clipped),
    }


def light(video: np.ndarray, fps: float) -> dict[str, float]:
    """``contrast`` and ``sharpness`` of uint8 frames [T, H, W, 3]: standard deviations over a frame's luma in [0, 1]
    and over its Laplacian, means over the frames."""
    luma = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in video]
    return {
        "contrast": float(np.mean([frame.std() for frame in luma]) / 255),
        "sharpness": float(np.mean([cv2.Laplacian(frame, cv2.CV_32F).std() for frame in luma]) / 255),
    }


def flickers(video: np.ndarray, fps: float) -> dict[str, float]:
    """``flicker``, mean |f_t - f_(t-1)|, and ``jitter``, mean |f_t - (f_(t-1) + f_(t+1)) / 2|, of uint8 frames
    [T, H, W, 3] over 255. Independent noise of deviation tau has 2 tau / sqrt(pi) and sqrt(3 / pi) tau; a
    steady ramp has its slope and 0."""
    frames = video.astype(np.int16)
    first = [np.abs(b - a).mean() for a, b in zip(frames, frames[1:], strict=False)]
    second = [np.abs(2 * b - a - c).mean() / 2 for a, b, c in zip(frames, frames[1:], frames[2:], strict=False)]
    return {
        "flicker": float(np.mean(first or [0.0]) / 255),
        "jitter": float(np.mean(second or [0.0]) / 255),
    }
