"""Read a transformer's tensors by name from safetensors, one at a time, after a check for missing ones."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ray_distill.models.outlines import Shapes
from ray_distill.models.parts import read_json
from ray_distill.models.places import transformer_folder

SINGLE, INDEX = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors.index.json"
BLOCK = re.compile(r"(transformer_)?blocks\.\d+\.")
SUFFIX = ".safetensors"
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
PREFIX = "model.diffusion_model."  # of single files that hold a whole pipeline


class Weights(Mapping[str, Tensor]):
    """The tensors of ``path``: a pipeline folder in diffusers' format with its weights in one file or in shards, or a
    single file, whose names diffusers translates where they are not its own. Files are mapped, so that reading a tensor
    touches only its own bytes."""

    def __init__(self, path: Path, network: str, shapes: Shapes, key: str = "model.path") -> None:
        """``network`` is the name of the network's class, ``shapes`` are those of its parameters. ValueError, which
        names ``key``, for files that are missing or no safetensors."""
        self._key, self._path = key, path
        self._network, self._expected_shapes = network, dict(shapes)
        self._files: dict[tuple[Path, str], Any] = {}
        self._where = self._single(path) if path.is_file() else self._folder(transformer_folder(path))

    def _folder(self, folder: Path) -> dict[str, tuple[Path, str]]:
        if (index := folder / INDEX).is_file():
            named = read_json(index, f"{self._key} = {self._path}").get("weight_map")
            if not isinstance(named, dict) or not all(isinstance(file, str) for file in named.values()):
                raise ValueError(f"{self._key} = {self._path}: {index.name} has no weight_map of names and files")
            where = {name: folder / file for name, file in named.items()}
            if missing := sorted({str(file) for file in where.values() if not file.is_file()}):
                raise ValueError(
                    f"{self._key} = {self._path}: {index.name} names files that are not there: {', '.join(missing)}"
                )
            return {name: (file, name) for name, file in where.items()}
        if not (folder / SINGLE).is_file():
            raise ValueError(
                f"{self._key} = {self._path}: neither {SINGLE} nor {INDEX} in {folder}; save the weights as safetensors"
            )
        return {name: (folder / SINGLE, name) for name in self._open(folder / SINGLE).keys()}  # noqa: SIM118

    def _single(self, file: Path) -> dict[str, tuple[Path, str]]:
        names = {name.removeprefix(PREFIX): name for name in self._open(file).keys()}  # noqa: SIM118
        if not self._expected_shapes.keys() <= names.keys():
            from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES  # takes a second

            # For Wan's and LTX-Video's text-to-video networks the converter renames keys, and changes no tensor.
            loadable = SINGLE_FILE_LOADABLE_CLASSES.get(self._network)
            if loadable is None:
                raise ValueError(
                    f"{self._key} = {file}: its names are not diffusers' own, and diffusers translates no single file "
                    f"of a {self._network}; give a pipeline folder in diffusers format"
                )
            with suppress(KeyError, AttributeError, TypeError):  # unknown names: ``check`` raises
                names = loadable["checkpoint_mapping_fn"](checkpoint=dict(names))
        return {name: (file, stored) for name, stored in names.items()}

    def _open(self, file: Path, framework: str = "np") -> Any:
        """The open file. "np" serves to read the header; "pt" maps the file, which needs as much memory."""
        if (file, framework) not in self._files:
            try:
                self._files[file, framework] = safe_open(file, framework)
            except SafetensorError as error:
                raise ValueError(f"{self._key} = {self._path}: {file} is no safetensors file: {error}") from error
        return self._files[file, framework]

    def __getitem__(self, name: str) -> Tensor:
        file, stored = self._where[name]
        tensor: Tensor = self._open(file, "pt").get_tensor(stored)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes by name, from the files' headers."""
        return {n: tuple(self._open(file).get_slice(stored).get_shape()) for n, (file, stored) in self._where.items()}

    def dtype(self, name: str) -> torch.dtype:
        """The dtype of a tensor in its file, from the header."""
        file, stored = self._where[name]
        return DTYPES.get(self._open(file).get_slice(stored).get_dtype(), torch.float32)

    @property
    def fit(self) -> bool:
        """True where names and shapes equal the network's."""
        return self.shapes == self._expected_shapes

    def _quantised(self, name: str) -> bool:
        """True for a tensor that belongs to a weight, such as its scale: ``LAYER.scale_weight`` (ComfyUI's scaled fp8),
        ``LAYER.weight.absmax`` (bitsandbytes)."""
        layer, _, last = name.partition(".weight.") if ".weight." in name else name.rpartition(".")
        unknown = name not in self._expected_shapes and last != "bias"
        return unknown and f"{layer}.weight" in self._expected_shapes

    def check(self) -> None:
        """ValueError, with the difference, unless the files have all tensors of the network in its shapes."""
        try:
            shapes = self.shapes
        except SafetensorError as error:  # the index names a tensor that its file lacks
            raise ValueError(f"{self._key} = {self._path}: its index belongs to another checkpoint: {error}") from error
        if beside := next((name for name in sorted(shapes) if self._quantised(name)), ""):
            raise ValueError(
                f"{self._key} = {self._path}: its weights are quantised, and {beside} tells how; give the file in "
                "bfloat16, float16 or float32"
            )
        of = f"{self._key} = {self._path}: its weights are not those of this {self._network}"
        if missing := sorted(self._expected_shapes.keys() - shapes.keys()):
            unknown = sorted(shapes.keys() - self._expected_shapes.keys())
            has = f", and has {unknown[0]}" if unknown else ""
            raise ValueError(
                f"{of}: it lacks {len(missing)} of {len(self._expected_shapes)} tensors, such as {missing[0]}{has}"
            )
        if more := sorted(name for name in shapes.keys() - self._expected_shapes.keys() if BLOCK.match(name)):
            raise ValueError(f"{of}: it has more blocks than its configuration says, such as {more[0]}")
        for name, shape in self._expected_shapes.items():
            if shapes[name] != shape:
                raise ValueError(f"{of}: {name} is {list(shapes[name])}, and its configuration says {list(shape)}")
