"""FAMILY: HunyuanVideo 1.5's declaration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ray_distill.errors import ConfigError
from ray_distill.models.codec import Codec
from ray_distill.models.parts import check_stored, outline, read_config, read_json, stored_shapes
from ray_distill.models.spec import (
    Config,
    Export,
    Family,
    Field,
    Fields,
    ImageEncoder,
    TextEncoder,
    of_clips,
    torch_randn,
)

if TYPE_CHECKING:
    from torch import nn

    from ray_distill.models.pipeline import Pipeline
    from ray_distill.models.sequence import Ranks

HERE = Path(__file__).parent
TEXT, IMAGE = "HunyuanVideo15Pipeline", "HunyuanVideo15ImageToVideoPipeline"
GLYPHS = 256
"""Most tokens of quoted words, as in diffusers' pipeline."""
PATCHES = 729
"""SigLIP's patches of a picture in the published folders, 27 in each direction."""


def fields(pipeline: Pipeline, tokens: int) -> Fields:
    """Tokens of the prompt and of its quoted words, in the precision of the published weights; for an image its latents
    and SigLIP's states. ConfigError where model.from_image asks for the other kind of network."""
    network = pipeline.architecture
    widths = {"text": network.get("text_embed_dim", 3584), "glyphs": network.get("text_embed_2_dim", 1472)}
    most = {"text": tokens, "glyphs": GLYPHS}
    captions = {
        name: Field((most[name], int(width)), padding="mask", dtype="bfloat16") for name, width in widths.items()
    }
    if not _from_image(pipeline):
        return captions
    first = Field((int(network.get("out_channels", 32)), "h", "w"), of="clip")
    return captions | {"first": first, "image": _states(pipeline)}


def _from_image(pipeline: Pipeline) -> bool:
    """True where a video begins from an image. Both networks have the same architecture, and some folders have the
    task_type "i2v" for both, so model_index.json decides; without that file, model.from_image does."""
    kind = pipeline.settings.get("_class_name")
    own = {TEXT: False, IMAGE: True}.get(str(kind))
    if own is not None and pipeline.from_image not in (None, own):
        raise ConfigError(
            f"model.from_image = {str(pipeline.from_image).lower()}: {pipeline.where} is a {kind}, which begins from "
            f"{'an image' if own else 'text'}; remove the key, or give a folder of the other kind"
        )
    return bool(pipeline.from_image) if own is None else own


def _states(pipeline: Pipeline) -> Field:
    """The field of SigLIP's states, one per patch of its picture; the published number of patches without a folder."""
    width, config = int(pipeline.architecture.get("image_embed_dim", 1152)), pipeline.path / "image_encoder/config.json"
    if not config.is_file():
        return Field((PATCHES, width), of="clip")
    described = read_json(config, f"{pipeline.where}: image_encoder")
    defaults = {"image_size": 224, "patch_size": 16, "hidden_size": 768}  # defaults of the class, which files may omit
    side, patch, states = (described.get(key, default) for key, default in defaults.items())
    if states != width or not isinstance(side, int) or not isinstance(patch, int) or patch < 1:
        raise ConfigError(
            f"{pipeline.where}: its transformer takes SigLIP's states of {width}, and image_encoder gives {states}, of "
            f"pictures of {side} in patches of {patch}; give a folder whose parts belong together"
        )
    return Field(((side // patch) ** 2, width), of="clip")


def image(pipeline: Pipeline, codec: Codec) -> ImageEncoder:
    from ray_distill.models.hunyuan15.image import HunyuanImageEncoder

    return HunyuanImageEncoder.load(pipeline.path, codec)


def image_parts(conditions: Fields) -> tuple[str, ...]:
    return ("vae", "image_encoder", "feature_extractor") if of_clips(conditions) else ()


def text(folder: Path, tokens: int, precision: str) -> TextEncoder:
    from ray_distill.models.hunyuan15.text import (
        HunyuanText,
    )  # transformers takes seconds to import, and encoders of clips need none of it

    return HunyuanText(folder, tokens, precision)


def patch(config: Config) -> tuple[int, int]:
    """(1, 1); ValueError for networks with larger patches, or with two timesteps."""
    if config.get("patch_size", 1) != 1 or config.get("patch_size_t", 1) != 1:
        raise ValueError("a HunyuanVideo 1.5 whose patch sizes are not 1 was never published, and is not adapted")
    if config.get("use_meanflow"):
        raise ValueError(
            "a HunyuanVideo 1.5 with use_meanflow takes two timesteps, and is not adapted; give a folder without"
        )
    return 1, 1


def features(config: Config) -> tuple[int, tuple[int, ...]]:
    raise ValueError(
        "model.family = 'hunyuan15': no features are taken from its blocks; use family wan, or another method"
    )


def image_channels(config: Config) -> int:
    """Number of channels of an image's latents and mask, which are zeros for text to video."""
    return int(config.get("in_channels", 65)) - int(config.get("out_channels", 32))


def check(pipeline: Pipeline, tokens: int) -> None:
    """ValueError unless the second text encoder is complete and gives the width that the transformer takes, and the
    image encoder's weights, if any, can be read."""
    from transformers import T5Config, T5EncoderModel

    patch(pipeline.transformer)
    what, folder = f"{pipeline.where}: text_encoder_2", pipeline.path / "text_encoder_2"
    described = read_config(folder / "config.json", what)
    if described.get("model_type") != T5Config.model_type:
        raise ValueError(f"{what}: model_type {described.get('model_type')!r}, and its words are read by a T5")
    encoder = outline(lambda values: T5EncoderModel(T5Config.from_dict(values)), described, what)
    shapes = {name: tuple(parameter.shape) for name, parameter in encoder.named_parameters()}
    stored = dict(stored_shapes(folder, "model", what))
    for name in ("shared.weight", "encoder.embed_tokens.weight"):  # files store this one matrix under either name
        if name in stored:
            stored.setdefault("shared.weight", stored[name])
    check_stored(stored, {name: shape for name, shape in shapes.items() if "embed_tokens" not in name}, what)
    if (width := described.get("d_model")) != (takes := pipeline.transformer.get("text_embed_2_dim", 1472)):
        raise ValueError(
            f"{what} gives {width} numbers a token, and the transformer takes {takes} (text_embed_2_dim); give a "
            "folder whose parts belong together"
        )
    if not (pipeline.path / "tokenizer_2/tokenizer_config.json").is_file():
        raise ValueError(f"{pipeline.where}: no tokenizer_2/tokenizer_config.json there; copy the whole folder")
    if of_clips(pipeline.fields(tokens)):
        stored_shapes(pipeline.path / "image_encoder", "model", f"{pipeline.where}: image_encoder")


def exchange_heads(network: nn.Module, ranks: Ranks) -> None:
    from ray_distill.models.hunyuan15.sequence import exchange_heads

    exchange_heads(network, ranks)


FAMILY = Family(
    name="hunyuan15",
    transformer_place="diffusers:HunyuanVideo15Transformer3DModel",
    parts={
        "text_encoder": "Qwen2_5_VLTextModel",
        "text_encoder_2": "T5EncoderModel",
        "vae": "AutoencoderKLHunyuanVideo15",
    },
    text_billions=8.3,  # Qwen2.5-VL 7B
    denoiser_place="ray_distill.models.hunyuan15.network:HunyuanDenoiser",
    exchange_heads=exchange_heads,
    codec_place="ray_distill.models.hunyuan15.codec:HunyuanVAE",
    fields=fields,
    text=text,
    text_precisions=("float32", "bfloat16"),
    text_parts=("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"),
    noise=torch_randn,
    check=check,
    patch=patch,
    features=features,
    image_channels=image_channels,
    targets=("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
    text_width="text_embed_dim",
    ends=("in_channels", "out_channels", "text_embed_dim", "text_embed_2_dim", "image_embed_dim"),
    export=Export(
        pipeline=TEXT,
        script=HERE / "sample.py",
        bases=(TEXT,),
    ),
    image=image,
    image_parts=image_parts,
    image_export=Export(
        pipeline=IMAGE,
        script=HERE / "sample.py",
        bases=(IMAGE,),
        task="image-to-video",
    ),
    published_folder=HERE / "published",
)
