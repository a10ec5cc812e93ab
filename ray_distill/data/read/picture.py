"""Read a picture: the first frame of a video that a network makes of it."""

from __future__ import annotations

import struct

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ray_distill.data.read.clip import BadClip

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
"""Pillow's modes of 8 bits a channel or fewer; others lose their range when they become RGB."""
BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
"""Errors of Pillow on bytes that are no picture."""


def read_picture(path: str, limit: int) -> np.ndarray:
    """uint8 [H, W, 3], upright. BadClip where the file is no picture, or has more than ``limit`` pixels."""
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
        raise BadClip(path, f"is no picture that is read; give {', '.join(FORMATS)}") from None
    except BROKEN as error:
        raise BadClip(path, f"cannot be read as a picture ({type(error).__name__}: {error})") from error
