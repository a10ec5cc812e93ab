"""Read the sound of a clip: the file's audio track in the seconds of the clip's frames; without torch.

The track is decoded from the file's start: after a seek AAC is wrong for 20 ms, mp3 and Opus for 100 ms.
"""

from __future__ import annotations

from collections.abc import Iterator

import av
import numpy as np

from ray_distill.data.read.clip import BadClip, Cut
from ray_distill.data.read.container import PIXELS, open_video
from ray_distill.data.read.readers import frames_with_times

JITTER = 0.01
"""Seconds by which a frame's time may differ from the end of the frame before it, since containers round times: to 1 ms
in Matroska. Beyond this the file has a gap or an overlap, and the frame's own time counts."""
RATES = 384_000
"""Most samples per second of a track; a header may state billions, and the buffer has their size."""


def read_sound(path: str, cut: Cut, rate: int, limit: int = PIXELS) -> np.ndarray:
    """The sound of ``cut`` as stereo float32 [2, n] at ``rate`` samples per second, n = round(seconds x rate); NaN
    where the file has none.

    Its first sample is heard when the first frame is shown: at the time cut.numbers[0] / cut.fps after the file's first
    frame. Mono comes on both channels, and more channels are mixed to two. The first audio track counts. BadClip where
    the track cannot be decoded.
    """
    assert cut.fps is not None and cut.stride == 1, "sound keeps its pace only beside frames at their own rate"
    start, seconds = _first_time(path, limit) + float(cut.numbers[0] / cut.fps), cut.frames / cut.fps
    samples = np.full((2, round(seconds * rate)), np.nan, np.float32)
    with open_video(path, limit) as (container, _):
        if not container.streams.audio:
            return samples
        heard, track_rate = _span(path, container, start, seconds)
    if heard.shape[1]:
        present = ~np.isnan(heard[0])
        resampled = _resample(np.where(present, heard, np.float32(0)), track_rate, rate)
        places = np.minimum(np.arange(samples.shape[1]) * track_rate // rate, heard.shape[1] - 1)
        length = min(resampled.shape[1], samples.shape[1])
        samples[:, :length] = np.where(present[places[:length]], resampled[:, :length], np.float32(np.nan))
    return samples


def _first_time(path: str, limit: int) -> float:
    """Seconds at which the file's first frame is shown."""
    with open_video(path, limit, probed=True) as (container, stream):
        frames, tick = frames_with_times(container, stream)
        first = next(frames, None)
        if first is None:
            raise BadClip(path, "cannot be decoded: it has no frame")
        return float(first[1] * tick)


def _span(path: str, container: av.container.InputContainer, start: float, seconds: float) -> tuple[np.ndarray, int]:
    """(samples float32 [2, n] of the track from ``start`` on, NaN where it has none; samples per second); n is 0 where
    the track ends before."""
    heard, rate = np.empty((2, 0), np.float32), 0
    for time, piece, rate in _pieces(path, container):
        if not heard.shape[1]:
            heard = np.full((2, round(seconds * rate)), np.nan, np.float32)
        place = round((time - start) * rate)
        if place >= heard.shape[1]:
            break
        piece = piece[:, max(0, -place) :]
        target = heard[:, max(0, place) : max(0, place) + piece.shape[1]]
        target[:] = piece[:, : target.shape[1]]
        if np.isinf(target).any():
            raise BadClip(path, f"its sound is damaged at {time:.2f} s")
    return heard, rate


def _pieces(path: str, container: av.container.InputContainer) -> Iterator[tuple[float, np.ndarray, int]]:
    """(start in seconds, samples float32 [2, n], samples per second) of each decoded frame of the first audio track;
    the samples of a damaged frame are infinite."""
    stream = container.streams.audio[0]
    if stream.codec_context is None:
        raise BadClip(path, "its sound cannot be decoded: no decoder knows its codec")
    kind: tuple[int, int] | None = None
    end: float | None = None
    for frame in container.decode(stream):
        rate, channels = frame.sample_rate, frame.layout.nb_channels
        if kind is None:
            if not 0 < rate <= RATES:
                raise BadClip(path, f"its sound has {rate} samples per second, and {RATES} is the most")
            kind = rate, channels
            # Mono is doubled below: FFmpeg's conversion to stereo would make it quieter by 3 dB.
            layout = "mono" if channels == 1 else "stereo"
            convert = av.AudioResampler(format="fltp", layout=layout, rate=rate)
        elif kind != (rate, channels):
            raise BadClip(
                path,
                f"its sound changes from {kind[0]} Hz and {kind[1]} channels to {rate} Hz and {channels}; convert it "
                "to one rate, or remove its audio track",
            )
        time = end if frame.pts is None or frame.time_base is None else float(frame.pts * frame.time_base)
        if time is None:
            raise BadClip(path, "its sound has no times; convert it to mp4 or Matroska, or remove its audio track")
        if end is not None and abs(time - end) <= JITTER:
            time = end
        samples = np.concatenate([piece.to_ndarray() for piece in convert.resample(frame)], axis=1)
        if frame.is_corrupt or not np.isfinite(samples).all():
            samples = np.full_like(samples, np.inf)
        yield time, np.broadcast_to(samples, (2, samples.shape[1])), rate
        end = time + samples.shape[1] / rate


def _resample(samples: np.ndarray, track_rate: int, rate: int) -> np.ndarray:
    """``samples`` float32 [2, n] at ``rate``, with about n rate / track_rate of them."""
    if track_rate == rate:
        return samples
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout="stereo")
    frame.sample_rate = track_rate
    convert = av.AudioResampler(format="fltp", layout="stereo", rate=rate)
    return np.concatenate([piece.to_ndarray() for piece in [*convert.resample(frame), *convert.resample(None)]], axis=1)
