"""One frozen base for all roles: the teacher is the base, every other role is an adapter on it.

Which adapter enters is the name that each adapted layer holds as active; peft passes over names that a layer lacks. To
change it copies nothing and, unlike peft's own ``set_adapter``, leaves alone what asks for gradients.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from ray_distill.models.lora import LoRA, add_lora
from ray_distill.types import TEACHER, Role


def on_one_base(
    base: nn.Module, adapters: Mapping[Role, LoRA], seed: int, teacher: Role = TEACHER
) -> Iterator[tuple[Role, nn.Module]]:
    """The network of the ``teacher``, then that of each role of ``adapters``.

    The adapters are put on after the base was taken: it may be sharded by then, and they stay whole."""
    yield teacher, base
    shared = SharedBase(base, adapters, seed)
    for role in adapters:
        yield role, OnBase(shared, role)


class SharedBase:
    """``module`` with an adapter for each role, all of them off but inside :meth:`of`."""

    def __init__(self, module: nn.Module, adapters: Mapping[Role, LoRA], seed: int) -> None:
        from peft.tuners.lora import LoraLayer  # it takes seconds

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several adapters are what is meant
            for role, lora in adapters.items():
                add_lora(module, lora, seed, role)
        self.module, self._role = module, ""
        self.checkpointed: set[Role] = set()
        self.layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, LoraLayer)}
        self._activate("")
        if module.is_gradient_checkpointing:  # the teacher's: diffusers' own would recompute other roles without theirs
            self.checkpoint("")

    def _activate(self, role: Role) -> None:
        for layer in self.layers.values():
            layer._active_adapter = role
        self._role = role

    @contextmanager
    def of(self, role: Role) -> Iterator[None]:
        """The base with this role's adapter inside."""
        before = self._role
        self._activate(role)
        try:
            yield
        finally:
            self._activate(before)

    def checkpoint(self, role: Role) -> None:
        """Gradient checkpointing of a role's calls."""
        self.checkpointed.add(role)
        self.module.enable_gradient_checkpointing(self._block)  # type: ignore[operator]

    def _block(self, block: nn.Module, *args: Any) -> Any:
        """A block of the role that is active; the call in the backward, where none is, is of that role again."""
        role = self._role
        if role not in self.checkpointed:
            return block(*args)

        def call(*args: Any) -> Any:
            with self.of(role):
                return block(*args)

        return checkpoint(call, *args, use_reentrant=False)


class OnBase(nn.Module):
    """The base as ``role`` calls it. Its parameters are the role's adapter alone, by their plain names."""

    def __init__(self, shared: SharedBase, role: Role) -> None:
        super().__init__()
        self.shared, self.role = shared, role
        for name, layer in shared.layers.items():
            for part in ("lora_A", "lora_B"):
                if role in getattr(layer, part):
                    _attach(self, f"{name}.{part}", getattr(layer, part)[role])
        self.requires_grad_(True)

    @property
    def body(self) -> nn.Module:
        """The network whose blocks a call passes."""
        return self.shared.module

    def enable_gradient_checkpointing(self) -> None:
        self.shared.checkpoint(self.role)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with self.shared.of(self.role):
            return self.shared.module(*args, **kwargs)


def _attach(root: nn.Module, name: str, module: nn.Module) -> None:
    """``module`` as the part ``name`` of ``root``."""
    *above, last = name.split(".")
    for part in above:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    root.add_module(last, module)
