"""Read a picture from which a network makes a video."""

from __future__ import annotations

import struct

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ray_distill.data.read.clip import BadClip

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
"""Pillow's modes with at most 8 bits per channel; a conversion to RGB would cut the range of other modes."""
BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
"""Errors of Pillow on bytes that are no picture."""


def read_picture(path: str, limit: int) -> np.ndarray:
    """The picture as uint8 [H, W, 3], upright. BadClip where the file is no picture, or has more than ``limit``
    pixels."""
    try:
        with Image.open(path, formats=FORMATS) as picture:
            if picture.width * picture.height > limit:
                raise BadClip(
                    path, f"has {picture.width}x{picture.height} pixels, above data.maximum_pixels = {limit:,}"
                )
            if picture.mode not in MODES:
                raise BadClip(path, f"has pixels of Pillow's mode {picture.mode}; save it with 8 bits a channel")
            return np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    except BadClip:
        raise
    except UnidentifiedImageError:
        raise BadClip(path, f"is no picture of a known format; give {', '.join(FORMATS)}") from None
    except BROKEN as error:
        raise BadClip(path, f"cannot be read as a picture ({type(error).__name__}: {error})") from error
