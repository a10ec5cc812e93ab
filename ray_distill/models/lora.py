"""LoRA through peft (arXiv:2106.09685): add W + (alpha / rank) B A; `checkpoint/network.py` merges it."""

from __future__ import annotations

import difflib
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from ray_distill.settings import Section

ADAPTER = "default"  # peft puts it into parameters' names, but not into the names that it stores


class LoRA(Section):
    """The ``lora`` section of a role. ``targets`` are names of linear layers, or the last parts of names."""

    rank: Annotated[int, Field(gt=0, le=65_536)] = 16
    """Rank of each adapter."""
    alpha: Annotated[float, Field(gt=0)] | None = None
    """Default: the rank, so that the adapter's factor alpha / rank is 1."""
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = ("to_q", "to_k", "to_v", "to_out.0")
    """Linear layers with adapters, by their names or the last parts of their names; default: the family's."""
    whole: tuple[str, ...] = ()
    """Parts whose full weights are trained beside the adapters, by the beginnings of their parameters' names."""

    def adapts(self, name: str) -> bool:
        """True where the layer ``name`` gets an adapter."""
        return any(ends_in(name, target) for target in self.targets)

    def trains_whole(self, name: str) -> bool:
        """True where the parameter ``name`` belongs to a part whose full weights are trained."""
        return any(f"{name}.".startswith(f"{part}.") for part in self.whole)

    def peft(self) -> dict[str, Any]:
        """The arguments of peft's LoraConfig, which are also the metadata in an adapter's file."""
        return {"r": self.rank, "lora_alpha": self.alpha or self.rank, "target_modules": list(self.targets)}


def check_targets(lora: LoRA, module: nn.Module, key: str) -> None:
    """ValueError, with the nearest names, for a target without a linear layer in ``module``, which may be on the meta
    device, or for a whole part without a parameter."""
    parameters = {name for name, _ in module.named_parameters()}
    for part in lora.whole:
        if not any(f"{name}.".startswith(f"{part}.") for name in parameters):
            tops = sorted({name.partition(".")[0] for name in parameters})
            raise ValueError(f"{key}.whole: {part!r} has no parameter in {type(module).__name__}; it has {tops}")
    for target in lora.targets:
        layers = {name: m for name, m in module.named_modules() if ends_in(name, target)}
        others = [f"{name}, a {type(m).__name__}" for name, m in layers.items() if not isinstance(m, nn.Linear)]
        if others or not layers:
            what = f"{others[0]}, and only linear layers" if others else f"no layer of {type(module).__name__}; these"
            raise ValueError(f"{key}.targets: {target!r} is {what} can be adapted: {_near(target, module)}")


def ends_in(name: str, target: str) -> bool:
    """True where ``name`` ends with ``target``, in whole parts of the dotted name, as peft matches targets."""
    return f".{name}".endswith(f".{target}")


def _near(target: str, module: nn.Module) -> str:
    layers = [name.split(".") for name, m in module.named_modules() if isinstance(m, nn.Linear)]
    ends = {".".join(parts[-n:]) for parts in layers for n in range(1, len(parts) + 1) if not parts[-n].isdigit()}
    if close := difflib.get_close_matches(target, sorted(ends), cutoff=0.6):
        return f"did you mean {' or '.join(map(repr, close))}?"
    return ", ".join(sorted({min((e for e in ends if ends_in(".".join(parts), e)), key=len) for parts in layers}))


def add_lora(module: nn.Module, lora: LoRA, seed: int, adapter: str = ADAPTER) -> None:
    """Freeze ``module`` except its whole parts, and add adapters to it: B = 0, A drawn from ``seed`` alone."""
    from peft import LoraConfig  # takes seconds to import, and a configuration needs only the section above

    module.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module.add_adapter(LoraConfig(**lora.peft()), adapter)  # type: ignore[operator]
    for name, parameter in module.named_parameters():
        if lora.trains_whole(name):
            parameter.requires_grad_(True)


def plain(name: str) -> str:
    """A parameter's name without the adapter's name: ``to_q.lora_A.default.weight`` -> ``to_q.lora_A.weight``."""
    return name.replace(f".{ADAPTER}.", ".") if ".lora_" in name else name
