"""Check a pipeline's VAE, text encoder and tokenizer by their configurations and file headers.

Each check takes the pipeline's folder and the ``key`` that names it. It raises ConfigError for a part that cannot be
loaded, or that lacks some of its tensors: diffusers and transformers would draw those at random.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ray_distill.collector import resolve
from ray_distill.errors import ConfigError
from ray_distill.models import family as declared
from ray_distill.models.codec import PCA, Codec, load_codec, vae_class
from ray_distill.models.hashing import folder_hash
from ray_distill.models.outlines import Shapes, remembered, shapes_of

READERS = ("tokenizers", "sentencepiece", "tiktoken", "protobuf")
"""Packages by which transformers reads a tokenizer's files; which of them it needs depends on the files."""

CONFIG = "config.json"
BLOCKS: Mapping[str, Mapping[str, bool]] = {
    "PatchPCA": {"": False},
    "CausalPatchPCA": {"first.": True, "rest.": False},
}
"""The parts of each PCA codec, by the prefix of their tensors' names; True where a part's blocks have one frame."""
WRONG = (TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError, RuntimeError)
"""Errors of libraries that make a network from wrong values."""
LAYERS, LARGEST = 1000, 10_000_000


def read_json(path: Path, what: str) -> dict[str, Any]:
    """The JSON object in ``path``; ConfigError, which begins with ``what``, where there is no such object."""
    if not path.is_file():
        raise ConfigError(f"{what}: no {path.name} in {path.parent}")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{what}: {path} is no valid JSON ({error}); copy it again") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{what}: {path} holds a {type(content).__name__} in place of a mapping; copy it again")
    return content


def read_config(path: Path, what: str) -> dict[str, Any]:
    """A network's configuration; ConfigError for numbers too large for a network."""
    config = read_json(path, what)
    for key, value in config.items():
        most = LAYERS if key in ("num_layers", "num_decoder_layers", "num_res_blocks") else LARGEST
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int | float) and not abs(number) <= most:
                raise ConfigError(
                    f"{what}: {path.name} has {key} = {number}, beyond the limit of {most:,}; copy it again"
                )
    return config


def outline(make: Callable[[dict[str, Any]], Any], config: Mapping[str, Any], what: str) -> Any:
    """``make(config)`` on the meta device; ConfigError in place of whatever error a library raises for wrong
    values."""
    try:
        with torch.device("meta"):
            return make(dict(config))
    except Exception as error:  # one class of these comes from a library that takes a tenth of a second to import
        from huggingface_hub.errors import StrictDataclassError

        if not isinstance(error, (*WRONG, StrictDataclassError)):
            raise
        raise ConfigError(f"{what}: its {CONFIG} makes no network ({type(error).__name__}: {error})") from error


def stored_dtypes(folder: Path, stem: str, what: str) -> set[str]:
    """The dtypes of the tensors in :func:`stored_files`, by safetensors' names: F32, BF16."""
    dtypes = set()
    for file in stored_files(folder, stem, what):
        with safe_open(file, "np") as opened:
            dtypes |= {opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118 (no mapping)
    return dtypes


def stored_files(folder: Path, stem: str, what: str) -> list[Path]:
    """The path of ``stem``.safetensors, or the shards in its index; ConfigError where the index names no file."""
    index = folder / f"{stem}.safetensors.index.json"
    if not index.is_file():
        return [folder / f"{stem}.safetensors"]
    named = read_json(index, what).get("weight_map")
    if not isinstance(named, dict) or not named or not all(isinstance(file, str) for file in named.values()):
        raise ConfigError(f"{what}: {index} has no weight_map of names and files; copy it again")
    return [folder / name for name in sorted(set(named.values()))]


def stored_shapes(folder: Path, stem: str, what: str) -> Shapes:
    """The shapes, by name, of the tensors in :func:`stored_files`, from the files' headers."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in stored_files(folder, stem, what):
        if not file.is_file():
            raise ConfigError(f"{what}: no {file.name} in {folder}, and weights are read from safetensors alone")
        try:
            with safe_open(file, "np") as opened:  # "pt" would map the file, which needs as much memory
                names = opened.keys()
                shapes |= {name: tuple(opened.get_slice(name).get_shape()) for name in names}
        except SafetensorError as error:
            raise ConfigError(f"{what}: {file} is no whole safetensors file ({error}); copy it again") from None
    return shapes


def check_stored(stored: Shapes, shapes: Shapes, what: str) -> None:
    """ConfigError unless ``stored`` has all tensors of ``shapes``, in the same shapes; it may have more tensors."""
    if missing := sorted(shapes.keys() - stored.keys()):
        raise ConfigError(f"{what}: its weights lack {len(missing)} of {len(shapes)} tensors, such as {missing[0]}")
    for name, shape in shapes.items():
        if stored[name] != shape:
            raise ConfigError(
                f"{what}: {name} is {list(stored[name])}, and its configuration says {list(shape)}; the two belong to "
                "different models; copy both again"
            )


def check_vae(folder: Path, key: str) -> Codec:
    """Check ``folder``/vae, and return its codec on the meta device."""
    what = f"{key} = {folder}: vae"
    config = read_config(folder / "vae/config.json", what)
    if (name := str(config.get("_class_name"))) in PCA:
        return _check_pca(folder / "vae", config, what)
    try:
        codec_class = vae_class(name, what)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    for key, least in (("latents_mean", -math.inf), ("latents_std", 0)):
        values = config.get(key) or []
        if not isinstance(values, list) or not all(isinstance(one, int | float) and one > least for one in values):
            raise ConfigError(f"{what}: {key} = {values}, but only numbers above {least} work; copy config.json again")
    codec: Any = outline(codec_class.outline, config, what)
    shapes = shapes_of(codec.vae.state_dict().items())
    check_stored(stored_shapes(folder / "vae", "diffusion_pytorch_model", what), shapes, what)
    return codec


def _check_pca(folder: Path, config: Mapping[str, Any], what: str) -> Codec:
    patch = config.get("patch")
    if not (isinstance(patch, list) and len(patch) == 3 and all(isinstance(p, int) and p > 0 for p in patch)):
        raise ConfigError(f"{what}: patch = {patch}, but only three numbers above 0 work; copy config.json again")
    stored, name = stored_shapes(folder, "diffusion_pytorch_model", what), config["_class_name"]
    shapes: dict[str, tuple[int, ...]] = {}
    channels = next(iter(shape[0] for key, shape in stored.items() if key.endswith("basis") and shape), 0)
    for part, one_frame in BLOCKS[name].items():
        size = 3 * math.prod(patch[1:] if one_frame else patch)
        shapes |= {f"{part}mean": (size,), f"{part}basis": (channels, size), f"{part}scale": (channels,)}
    check_stored(stored, shapes, what)
    return load_codec(folder)


def check_text(folder: Path, family: str, key: str) -> tuple[int, int]:
    """Check ``folder``/text_encoder, and return (width, size of its vocabulary)."""
    what, kind = f"{key} = {folder}: text_encoder", declared(family).parts["text_encoder"]
    config = read_config(folder / "text_encoder/config.json", what)

    def make() -> Shapes:
        import transformers

        of, named = getattr(transformers, kind), config.get("model_type")
        if named != of.config_class.model_type:
            raise ConfigError(
                f"{what}: model_type {named!r}, and family {family!r} reads text by {of.config_class.model_type!r}"
            )
        encoder: nn.Module = outline(lambda values: of(of.config_class.from_dict(values)), config, what)
        return shapes_of(encoder.named_parameters())

    shapes = remembered(f"transformers:{kind}", config, make)
    stored = dict(stored_shapes(folder / "text_encoder", "model", what))
    for name in ("shared.weight", "encoder.embed_tokens.weight"):  # files store this one matrix under either name
        if name in stored:
            stored.setdefault("shared.weight", stored[name])
    size = config.get("text_config", config)  # text_config: the language part of a multimodal model
    width, vocabulary = int(size.get("d_model", size.get("hidden_size"))), int(size["vocab_size"])
    if "text_config" in config:
        check_shapes(stored, shapes, what)
    else:
        check_stored(stored, {name: shape for name, shape in shapes.items() if "embed_tokens" not in name}, what)
    return width, vocabulary


def check_shapes(stored: Shapes, shapes: Shapes, what: str) -> None:
    """Compare shapes alone, while :func:`check_stored` compares names as well: transformers stores parts of such models
    under names of its earlier versions, and does not store a head that is tied to the vocabulary."""
    expected = Counter(shape for name, shape in shapes.items() if not name.startswith("lm_head"))
    if lost := expected - Counter(stored.values()):
        shape, count = next(iter(lost.items()))
        raise ConfigError(
            f"{what}: its weights lack {count} of {expected[shape]} tensors of {list(shape)}; copy it again"
        )


def check_others(folder: Path, family: str, key: str) -> None:
    """Check the family's parts beside text encoder and VAE: each is of its diffusers class, with all tensors."""
    for part, place in declared(family).others.items():
        of = resolve(place)
        what = f"{key} = {folder}: {part}"
        config = read_config(folder / part / CONFIG, what)
        if (named := config.get("_class_name")) != of.__name__:
            raise ConfigError(
                f"{what} is a {named}, and family {family!r} takes a {of.__name__}; give its pipeline's folder"
            )
        shapes = shapes_of(outline(of.from_config, config, what).state_dict().items())
        check_stored(stored_shapes(folder / part, "diffusion_pytorch_model", what), shapes, what)


def check_tokenizer(folder: Path, vocabulary: int, key: str) -> None:
    """Check that a tokenizer loads, has a pad token, and stays within the text encoder's ``vocabulary``."""
    what = f"{key} = {folder}: tokenizer"
    read_json(folder / "tokenizer" / "tokenizer_config.json", what)
    about = {"files": folder_hash(folder / "tokenizer")} | {name: _version(name) for name in READERS}
    # Of these files under these versions an earlier process's answer is enough: transformers takes seconds to import.
    facts = remembered("transformers:AutoTokenizer", about, lambda: _facts(load_tokenizer(folder / "tokenizer", what)))
    if not facts["pad"]:
        raise ConfigError(f"{what}: it has no pad token, which prompts need; name one in tokenizer_config.json")
    (most,) = facts["most"]
    if most >= vocabulary:
        raise ConfigError(
            f"{what}: it has the token {most}, and the text encoder knows {vocabulary:,}; the two belong to different "
            "pipelines: copy both from one"
        )


def _version(package: str) -> str:
    """A package's version; "" where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _facts(tokenizer: Any) -> Shapes:
    """The pad token's number, if there is one, and the largest number of a token."""
    pad = tokenizer.pad_token_id
    return {"pad": () if pad is None else (pad,), "most": (max(tokenizer.get_vocab().values(), default=0),)}


def load_tokenizer(folder: Path, what: str) -> Any:
    """The tokenizer in ``folder``; ConfigError, which begins with ``what``, where its files cannot be read."""
    from transformers import AutoTokenizer

    read_json(folder / "tokenizer_config.json", what)
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers package raises plain Exceptions for damaged files
        message = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise ConfigError(f"{what} cannot be loaded ({type(error).__name__}: {message}); copy it again") from error
