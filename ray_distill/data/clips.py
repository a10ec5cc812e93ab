"""Clips: the part of the `data` section that chooses the clips of a file, their frames and their size."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, model_validator

from ray_distill.data.read.clip import Cut
from ray_distill.settings import Frames, Many, Section, Side


class Clips(Section):
    """Rules that choose the clips of a file, their frames and their size."""

    frames: Frames
    """Frames of a clip."""
    stride: Many = 1
    """A clip takes every stride-th frame."""
    fps: Annotated[float, Field(ge=0.01, le=1000)] = 16
    """Frames per second of samples and clips: files are resampled to this rate before ``stride``."""
    resample: bool = True
    """False: take the file's frames as they are, whatever its rate."""
    height: Side
    """Height of samples, and of clips unless resolution_type is pixel_area."""
    width: Side
    """Width of samples, and of clips unless resolution_type is pixel_area."""
    resolution_type: Literal["fixed", "pixel_area"] = "fixed"
    """fixed: height x width. pixel_area: about resolution^2 pixels in the file's own aspect ratio, in multiples of the
    model's patch."""
    resolution: Side | None = None
    """Side of a square with as many pixels as a clip has under pixel_area."""
    aspect_bucket_rounding: Annotated[int, Field(ge=1, le=9)] = 2
    """Decimals to which width / height is rounded; files with equal rounded ratios share a bucket."""
    crop: bool = True
    """true: crop the picture evenly on both sides to the size; false: squeeze the whole picture into the size."""
    minimum_image_size: NonNegativeInt = 0
    """Leave out files whose shorter edge is below this; with pixel_area, files with fewer pixels than its square."""
    minimum_aspect_ratio: Annotated[float, Field(gt=0)] | None = None
    """Leave out files whose width / height is lower."""
    maximum_aspect_ratio: Annotated[float, Field(gt=0)] | None = None
    """Leave out files whose width / height is higher."""
    clips_per_video: Many = 1
    """Most clips that a long file gives, one after the other."""

    @model_validator(mode="after")
    def _resolution_is_for_areas(self) -> Clips:
        if (self.resolution is None) == (self.resolution_type == "pixel_area"):
            need = "needs a resolution, such as 480" if self.resolution is None else "takes height and width; remove it"
            raise ValueError(f"resolution = {self.resolution}: resolution_type {self.resolution_type!r} {need}")
        return self

    def cut(self, number: int) -> Cut:
        return Cut(self.frames, self.stride, self.fps if self.resample else None, number)

    def unfit(self, pixels: tuple[float, float]) -> str:
        """The reason to leave out a file of ``pixels`` (height, width) in square pixels; "" if there is none."""
        height, width = pixels
        least, lowest, highest = self.minimum_image_size, self.minimum_aspect_ratio, self.maximum_aspect_ratio
        what = f"shows {width:.0f}x{height:.0f} pixels"
        edge = (height * width) ** 0.5 if self.resolution_type == "pixel_area" else min(height, width)
        if round(edge, 6) < least:
            area = f", which are {least}^2 of them" if self.resolution_type == "pixel_area" else ""
            return f"{what}, below data.minimum_image_size = {least}{area}"
        if lowest is not None and width / height < lowest:
            return f"{what}, a width / height below data.minimum_aspect_ratio = {lowest:g}"
        if highest is not None and width / height > highest:
            return f"{what}, a width / height above data.maximum_aspect_ratio = {highest:g}"
        return ""

    def size(self, pixels: tuple[float, float], multiple: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the bucket of a file of square ``pixels`` (height, width), in whole multiples of
        ``multiple``."""
        if self.resolution is None:
            return self.height, self.width
        aspect = max(round(pixels[1] / pixels[0], self.aspect_bucket_rounding), 10**-self.aspect_bucket_rounding)
        target = self.resolution / aspect**0.5, self.resolution * aspect**0.5
        height, width = (max(1, round(side / whole)) * whole for side, whole in zip(target, multiple, strict=True))
        return height, width
