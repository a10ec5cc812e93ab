"""Rules for SimpleTuner's keys on model, adapters, precision and attention."""

from __future__ import annotations

from typing import Any

from ray_distill.simpletuner.outcome import File, Outcome
from ray_distill.simpletuner.values import Refused, flag, one_of, texts

INT8 = ("int8-quanto", "int8-torchao")
ATTENTION = {
    "diffusers": "native",
    "native-flash": "_native_flash",
    "native-math": "_native_math",
    "native-efficient": "_native_efficient",
    "cudnn": "_native_cudnn",
    "flash-attn": "flash",
    "flash-attn-2": "flash",
    "flash-attn-3": "_flash_3",
    "flex": "flex",
    "xformers": "xformers",
}


def is_lora(file: File) -> bool:
    return file.settings.get("model_type") != "full"


def model_type(value: Any, file: File) -> Outcome:
    if one_of(value, ("lora", "full")) == "full":
        return Outcome(note="all weights of each trained role")
    return Outcome(note="adapters on each trained role; the teacher has its own weights, which stay as they are")


def lora(name: str, kind: Any) -> Any:
    def rule(value: Any, file: File) -> Outcome:
        if not is_lora(file):
            return Outcome(note="no effect: model_type is full", warn=True)
        return Outcome({f"roles.{role}.lora.{name}": kind(value) for role in file.trained if value is not None})

    return rule


def targets(value: Any, file: File) -> Outcome:
    if not is_lora(file):
        return Outcome(note="no effect: model_type is full", warn=True)
    return Outcome({f"roles.{role}.lora.targets": texts(value) for role in file.trained})


def lora_type(value: Any, file: File) -> Outcome:
    if one_of(value, ("standard", "lycoris")) == "lycoris":
        raise Refused("LyCORIS is not supported; use standard")
    return Outcome(note="peft's LoRA on to_q, to_k, to_v and to_out.0" if is_lora(file) else "model_type is full")


def lora_format(value: Any, file: File) -> Outcome:
    comfyui = one_of(value, ("diffusers", "comfyui")) == "comfyui"
    if comfyui and not is_lora(file) and not file.overrides("model.export_lora_rank"):
        return Outcome(note="no effect: model_type is full, which leaves no adapter", warn=True)
    formats = ["comfyui_lora"] if comfyui else []
    return Outcome({"model.export_formats": formats}, "beside the file by diffusers' names" if comfyui else "")


def lycoris_config(value: Any, file: File) -> Outcome:
    return Outcome(note="no effect: it belongs to lora_type=lycoris; the file is not read", warn=True)


def mixed_precision(value: Any, file: File) -> Outcome:
    dtypes = {"bf16": "bfloat16", "no": "float32", "fp32": "float32"}
    dtype = dtypes[one_of(value, dtypes, "master weights are fp32, and networks compute in one of")]
    return Outcome({f"roles.{role}.dtype": dtype for role in file.networks})


def default_dtype(value: Any, file: File) -> Outcome:
    same = one_of(value, ("bf16", "fp32")) == file.settings.get("mixed_precision", "bf16")
    note = "weights that are not quantised have the precision of mixed_precision"
    return Outcome(note=note if same else f"no effect: {note}", warn=not same)


def precision(value: Any, file: File) -> Outcome:
    """Read the precision of the frozen weights. int8 is whole on each worker, since ZeRO-3 cannot shard it."""
    if value in (None, "no_change", "bf16"):
        return Outcome(note="bases have the precision of mixed_precision")
    one_of(value, INT8)
    if not is_lora(file):
        raise Refused("model_type=full trains all weights, and int8 cannot be trained; use lora, or remove it")
    tree: dict[str, Any] = {f"roles.{role}.base_precision": "int8" for role in file.networks}
    frozen = [role for role in file.networks if role not in file.trained]
    note = "one scale per row, quantised on the CPU at loading; whole on each worker, since ZeRO-3 cannot shard it"
    return Outcome(tree | {f"roles.{role}.zero": 0 for role in frozen}, note)


def text_precision(value: Any, file: File) -> Outcome:
    if value in (None, "no_change", "bf16"):
        return Outcome(note="the text encoder computes in fp32")
    one_of(value, INT8)
    return Outcome({"model.text_encoder_precision": "int8"})


def quantize_via(value: Any, file: File) -> Outcome:
    where = one_of(value, ("cpu", "accelerator"))
    if file.settings.get("base_model_precision", "no_change") not in INT8:
        return Outcome(note="no effect: base_model_precision quantises nothing", warn=True)
    note = "" if where == "cpu" else "no effect: weights are quantised on the CPU, when they are loaded"
    return Outcome(note=note or "weights are quantised on the CPU, when they are loaded", warn=bool(note))


def attention(value: Any, file: File) -> Outcome:
    if str(value).startswith("sageattention"):
        raise Refused("its kernels give no gradient, and training needs one; use diffusers")
    return Outcome({"model.attention": ATTENTION[one_of(value, ATTENTION)]})


def gradient_checkpointing(value: Any, file: File) -> Outcome:
    return Outcome({f"roles.{role}.gradient_checkpointing": flag(value) for role in file.trained})
