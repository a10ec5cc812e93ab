"""Find key frames from which decoding equals a decode from the file's start.

A container marks more frames as key frames than these; the bits of a packet tell them apart. Sources: ITU-T H.264 and
H.265 (NAL units), RFC 6386 (VP8), the VP9 and AV1 bitstream specifications.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

Units = Iterator[tuple[int, memoryview]]
"""(first byte, all bytes) of each NAL unit."""


def units(data: memoryview, extradata: bytes, codec: str) -> Units:
    """The NAL units of a packet in which each has its length before it (mp4, Matroska); none where a length is
    invalid."""
    if not extradata or extradata[0] != 1:
        return
    size, place = (extradata[21 if codec == "hevc" else 4] & 3) + 1, 0
    while place + size < len(data):
        length = int.from_bytes(data[place : place + size], "big")
        unit = data[place + size : place + size + length]
        if not length or len(unit) < length:
            return
        yield unit[0], unit
        place += size + length


def _h264(nals: Units, sets: list[bytes]) -> bool:
    """True for IDR pictures alone: after any other key frame, frames may refer to frames before it."""
    for head, unit in nals:
        kind = head & 31
        if kind in (7, 8, 13, 15):
            sets.append(bytes(unit))
        elif 1 <= kind <= 5:
            return kind == 5
    return False


def _hevc(nals: Units, sets: list[bytes]) -> bool:
    """True for any IRAP picture: no frame that is decoded and shown after it refers to an earlier frame."""
    for head, unit in nals:
        kind = head >> 1 & 63
        if kind in (32, 33, 34):
            sets.append(bytes(unit))
        elif kind < 32:
            return 16 <= kind <= 21
    return False


def _av1(data: memoryview) -> bool:
    """True for a key frame that is itself shown, in a packet that contains its sequence header."""
    place, sequence = 0, False
    while place < len(data):
        head = data[place]
        kind, extended, sized = head >> 3 & 15, head & 4, head & 2
        place += 2 if extended else 1
        size, shift = 0, 0
        while sized and place < len(data):
            size, shift, place = size | (data[place] & 127) << shift, shift + 7, place + 1
            if data[place - 1] < 128:
                break
        if kind == 1:
            sequence = True
        elif kind in (3, 6):  # show_existing_frame, frame_type (2 bits, 0 is a key frame), show_frame
            return sequence and place < len(data) and data[place] >> 4 == 0b0001
        if not sized:
            return False
        place += size
    return False


def begins(codec: str, data: memoryview, extradata: bytes, sets: list[bytes]) -> bool:
    """True where a decoder may begin with this packet. Adds the packet's parameter sets to ``sets``."""
    if codec in NAL_CODECS:
        return NAL_CODECS[codec](units(data, extradata, codec), sets)
    if codec == "vp8":
        return len(data) > 0 and data[0] & 1 == 0
    if codec == "vp9":  # frame marker 10, profile, then show_existing_frame, frame_type (0 is a key frame), show_frame
        if len(data) == 0 or data[0] >> 6 != 2:
            return False
        bits = data[0] << 1 if data[0] >> 4 & 3 == 3 else data[0]  # profile 3 has one more reserved bit
        return bits >> 1 & 7 == 0b001
    return codec == "av1" and _av1(data)


NAL_CODECS: dict[str, Callable[[Units, list[bytes]], bool]] = {"h264": _h264, "hevc": _hevc}
CODECS = (*NAL_CODECS, "vp8", "vp9", "av1")


def hidden(codec: str, data: memoryview) -> bool:
    """True for a packet whose frame is not shown; only VP8 has such packets."""
    return codec == "vp8" and len(data) > 0 and not data[0] >> 4 & 1
