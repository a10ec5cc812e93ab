"""Check the pipeline's folder: VAE, text, and the parts that an export takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ray_distill.config import ConfigError, RunConfig
from ray_distill.export.base import check_base
from ray_distill.export.checks import FOLDER, check_place, check_recipe
from ray_distill.export.original import ADAPTERS, original_name, original_tensor
from ray_distill.models.loading import empty_transformer
from ray_distill.models.parts import check_others, check_text, check_tokenizer, check_vae
from ray_distill.models.pipeline import INDEX
from ray_distill.models.spec import of_clips
from ray_distill.types import STUDENT

PARTS = ("vae/config.json", "text_encoder/config.json", "tokenizer/tokenizer_config.json")


@dataclass(frozen=True)
class Ends:
    """Inputs of all transformers of a run: ``channels`` of latents, and ``width`` of text."""

    channels: int
    width: int


def check_parts(config: RunConfig) -> Ends:
    """Check that VAE, text encoder and tokenizer exist, are whole, and belong to one pipeline."""
    folder = config.model.path
    if missing := [part for part in PARTS if not (folder / part).is_file()]:
        raise ConfigError(
            f"model.path = {folder}: this folder has no {', '.join(missing)}. Give a whole pipeline folder in "
            "diffusers format"
        )
    precision, precisions = config.model.text_encoder_precision, config.model.pipeline.of.text_precisions
    if precision not in precisions:
        raise ConfigError(
            f"model.text_encoder_precision = {precision}: family {config.model.family!r} reads text in "
            f"{' or '.join(precisions)}; use {precisions[-1]}, with data.encoder_gpus=0 where no GPU holds it"
        )
    codec = check_vae(folder, "model.path")
    width, vocabulary = check_text(folder, config.model.family, "model.path")
    check_tokenizer(folder, vocabulary, "model.path")
    check_others(folder, config.model.family, "model.path")
    config.model.pipeline.of.check(config.model.pipeline, config.model.max_sequence_length)
    check_image(config)
    return Ends(codec.channels, width)


def check_image(config: RunConfig) -> None:
    """Check that the image encoder's parts exist, and that prompts have the only length that the network takes."""
    pipeline, tokens = config.model.pipeline, config.model.max_sequence_length
    fields = config.model.encoders.fields
    for part in pipeline.of.image_parts(fields):
        if not (pipeline.path / part).is_dir():
            raise ConfigError(
                f"{pipeline.where}: this folder has no {part}/, which encodes images; copy the whole folder"
            )
    if of_clips(fields):
        _, rows, columns = pipeline.codec.stride
        try:
            pipeline.codec.latent_shape(1, rows, columns)
        except ValueError as error:
            raise ConfigError(
                f"{pipeline.where}: a clip begins from a picture, and the vae cannot encode one frame: {error}; give "
                "a folder whose first latent frame is one picture"
            ) from None
    length = pipeline.of.tokens(pipeline.architecture)
    if length is not None and tokens != length:
        raise ConfigError(
            f"model.max_sequence_length = {tokens}: the transformer of {pipeline.where} splits text from image at "
            f"{length} tokens, and another length gives wrong results without an error; use {length}"
        )


CUT_REMEDY = (
    "the adapter of model.export_lora_rank has every linear layer, so remove the format, or train roles.student.lora "
    "in place of export_lora_rank"
)


def check_formats(config: RunConfig) -> None:
    """Check that the original code has a name for each tensor that model.export_formats asks for, and that adapters
    are asked for only where there are some."""
    experts, family = config.method.sampler().experts, config.model.pipeline.of
    adapters = [kind for kind in config.model.export_formats if kind in ADAPTERS]
    for kind in config.model.export_formats:
        if (family.original if kind in ADAPTERS else family.original_rest) is None:
            what = "layers" if kind in ADAPTERS else "a whole network"
            raise ConfigError(
                f"model.export_formats: {kind} has the names of the network's original code, and family "
                f"{family.name!r} declares none for {what}; remove {kind}"
            )
    for role in (experts.high, experts.low) if experts else (STUDENT,):
        lora, cut = config.role(role).lora, config.model.export_lora_rank is not None
        if adapters and (lora is None or lora.whole) and not cut:
            raise ConfigError(
                f"model.export_formats: {adapters[0]} needs an adapter, and the export of {role} has none; give "
                f"roles.{role}.lora without whole, set model.export_lora_rank, or remove it"
            )
        network = empty_transformer(config.model.family, config.source(role))
        for name, module in network.named_modules() if adapters else ():
            if isinstance(module, nn.Linear) and (cut or lora is None or lora.adapts(name)):
                original_name(name, family, CUT_REMEDY if cut else "adapt other layers")
        for name in network.state_dict() if len(adapters) < len(config.model.export_formats) else ():
            original_tensor(name, family)


def check_export(config: RunConfig) -> None:
    """Check that the student can be exported: its recipe, the parts from its base, and the destination."""
    sampler, folder = config.method.sampler(), config.model.path
    times = sampler.timesteps
    if not times or times[0] > 1000 or times[-1] <= 0 or any(a <= b for a, b in zip(times, times[1:], strict=False)):
        shown = ", ".join(f"{t:g}" for t in times[:8])
        raise ConfigError(
            f"method.name = {config.method.name!r}: its sampling steps are at the timesteps {shown}, which must fall "
            "within (0, 1000]; lower its shift, or the number of steps"
        )
    family = config.model.pipeline.of
    check_recipe(sampler, family.leaves(config.model.encoders.fields) if family.image_export else family.export)
    check_place(config.run_dir / FOLDER)
    if config.model.export_formats:
        check_formats(config)
    # With a section publish the base is a name on the hub, and this folder is a copy of it.
    if config.publish is None or Path(config.publish.base_model).is_dir() or (folder / INDEX).is_file():
        check_base(config.model.pipeline, sampler.experts is not None)
