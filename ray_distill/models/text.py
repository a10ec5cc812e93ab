"""Encode prompts by the T5 of a pipeline's folder; the family chooses the class and its options."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from transformers import AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from ray_distill.models.int8 import quantize
from ray_distill.models.spec import Row

disable_progress_bar()  # "Loading weights", which would stand between the lines and bars of a command


class T5Text:
    """Encoder of prompts into the field "text" [tokens, D] fp32, by a pipeline folder's ``tokenizer`` and
    ``text_encoder``.

    ``max_length``: most tokens of a prompt; longer prompts are cut. ``precision``: "float32" and "bfloat16" are the
    dtype of computation, whatever the files hold; "int8" stores the blocks' weights in int8 and computes in fp32.
    ``encoder`` is transformers' class, ``clean`` its cleaning of a prompt. ``use_mask``: true where attention
    leaves out the padding. FileNotFoundError for a missing part, ValueError for a text encoder of another kind. The
    weights are read when they are first needed, since tokens are counted without.
    """

    def __init__(
        self,
        folder: Path,
        max_length: int,
        precision: str = "float32",
        *,
        encoder: Any,
        clean: Callable[[str], str] = str,
        use_mask: bool = True,
    ) -> None:
        for part in ("tokenizer", "text_encoder"):
            if not (Path(folder) / part).is_dir():
                raise FileNotFoundError(f"{folder} has no {part}/: it must be a diffusers pipeline folder")
        kind = json.loads((Path(folder) / "text_encoder/config.json").read_text()).get("model_type")
        if kind != (model_type := encoder.config_class.model_type):
            raise ValueError(f"{folder}: its text_encoder is a {kind}, and this family reads text by a {model_type}")
        self.max_length, self.clean, self.use_mask = max_length, clean, use_mask
        self.weights, self.precision, self.encoder = Path(folder) / "text_encoder", precision, encoder
        self.tokenizer = load_tokenizer(Path(folder) / "tokenizer")

    @cached_property
    def model(self) -> Any:
        dtype = torch.bfloat16 if self.precision == "bfloat16" else torch.float32  # the default is the files' dtype
        how = {"local_files_only": True, "use_safetensors": True}
        model = self.encoder.from_pretrained(self.weights, dtype=dtype, **how).eval().requires_grad_(False)
        if self.precision == "int8":
            quantize(model)
        return model

    def to(self, device: torch.device | str) -> Self:
        self.model.to(device)
        return self

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> list[Row]:
        """One row per prompt, without padding."""
        tokens = self.tokenizer(
            [self.clean(prompt) for prompt in prompts],
            padding="max_length",
            max_length=self.max_length,
            truncation=True,
            add_special_tokens=True,
            return_attention_mask=True,
            return_tensors="pt",
        ).to(self.model.device)
        hidden = self.model(
            tokens.input_ids, tokens.attention_mask if self.use_mask else None
        ).last_hidden_state.float()
        # T5 also computes values behind the last token, but no network was trained with them.
        return [{"text": h[:length]} for h, length in zip(hidden, tokens.attention_mask.sum(1).tolist(), strict=True)]

    def tokens(self, prompts: Sequence[str]) -> list[int]:
        """The number of tokens of each prompt; ``encode`` cuts those beyond ``max_length``."""
        return [len(ids) for ids in self.tokenizer([*map(self.clean, prompts)], verbose=False).input_ids]

    def cleaned(self, prompts: Sequence[str]) -> list[bool]:
        """True for each prompt that has other tokens after its cleaning."""
        plain = (self.tokenizer(list(texts), verbose=False).input_ids for texts in (prompts, map(self.clean, prompts)))
        return [before != after for before, after in zip(*plain, strict=True)]


def load_tokenizer(folder: Path) -> Any:
    """Load a tokenizer; ValueError where it needs code from the model's folder, which never runs."""
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise ValueError(
            f"{folder}: its tokenizer is Python code in that folder, which is not run; use one without code"
        ) from None
