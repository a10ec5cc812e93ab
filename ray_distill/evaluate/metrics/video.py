"""Colour, light and flicker of a video, measured from its pixels alone."""

from __future__ import annotations

import cv2
import numpy as np

from ray_distill.evaluate.metrics.flow import grey

DARK = 26  # of 255: noise determines the saturation of darker pixels
BLACK, WHITE = 2, 253  # of 255: values at or beyond these are clipped


def colours(video: np.ndarray, fps: float) -> dict[str, float]:
    """``saturation``, ``chroma`` and ``clipped`` of uint8 frames [T, H, W, 3], shares in [0, 1]: docs/metrics.md."""
    channels = cv2.split(video.reshape(-1, video.shape[2], 3))
    red, green, blue = channels
    most = cv2.max(cv2.max(red, green), blue)
    difference = cv2.subtract(most, cv2.min(cv2.min(red, green), blue))
    bright = cv2.inRange(most, DARK, 255)
    quotient = cv2.divide(difference, most, dtype=cv2.CV_32F)
    inside = sum(cv2.countNonZero(cv2.inRange(channel, BLACK + 1, WHITE - 1)) for channel in channels)
    return {
        "saturation": cv2.mean(quotient, mask=bright)[0],
        "chroma": cv2.mean(difference)[0] / 255,
        "clipped": 1 - inside / video.size,
    }


def light(video: np.ndarray, fps: float) -> dict[str, float]:
    """``contrast`` and ``sharpness`` of uint8 frames [T, H, W, 3]: standard deviations over a frame's luma in [0, 1]
    and over its Laplacian, means over the frames."""
    luma = grey(video)
    return {
        "contrast": float(np.mean([_deviation(frame) for frame in luma]) / 255),
        "sharpness": float(np.mean([_deviation(cv2.Laplacian(frame, cv2.CV_32F)) for frame in luma]) / 255),
    }


def _deviation(frame: np.ndarray) -> float:
    return float(cv2.meanStdDev(frame)[1][0, 0])


def flickers(video: np.ndarray, fps: float) -> dict[str, float]:
    """``flicker``, mean |f_t - f_(t-1)|, and ``jitter``, mean |f_t - (f_(t-1) + f_(t+1)) / 2|, of uint8 frames
    [T, H, W, 3] over 255. Independent noise of deviation tau has 2 tau / sqrt(pi) and sqrt(3 / pi) tau; a
    steady ramp has its slope and 0."""
    frames, size = video.reshape(len(video), -1), 255 * video[0].size
    earlier, later, middle = frames[:-1], frames[1:], frames[1:-1]
    first = cv2.norm(earlier, later, cv2.NORM_L1) if len(later) else 0.0
    second = 0.0
    if len(middle):
        around = cv2.add(frames[:-2], frames[2:], dtype=cv2.CV_16S)
        second = cv2.norm(cv2.add(middle, middle, dtype=cv2.CV_16S), around, cv2.NORM_L1) / len(middle)
    return {"flicker": first / max(1, len(later)) / size, "jitter": second / 2 / size}
