"""One frozen base for all roles: the teacher is the base, every other role an adapter on it.

Each adapted layer stores the name of its active adapter, and peft skips a name that a layer lacks. Changing that name
copies nothing and, unlike peft's own ``set_adapter``, leaves ``requires_grad`` alone.
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
    """Yield the ``teacher`` with its network, the base, then each role of ``adapters`` with its network.

    The adapters are added after the caller has taken the base, which it may have sharded by then; the adapters stay
    unsharded.
    """
    yield teacher, base
    shared = SharedBase(base, adapters, seed)
    for role in adapters:
        yield role, OnBase(shared, role)


class SharedBase:
    """``module`` with an adapter for each role; outside :meth:`of` all adapters are off."""

    def __init__(self, module: nn.Module, adapters: Mapping[Role, LoRA], seed: int) -> None:
        from peft.tuners.lora import LoraLayer  # takes seconds to import

        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "Already found a `peft_config`"
            )  # peft warns of several adapters, which are intended here
            for role, lora in adapters.items():
                add_lora(module, lora, seed, role)
        self.module, self._role = module, ""
        self.checkpointed: set[Role] = set()
        self.layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, LoraLayer)}
        self._activate("")
        if (
            module.is_gradient_checkpointing
        ):  # for the teacher's calls alone: diffusers' own would recompute other roles without their adapters
            self.checkpoint("")

    def _activate(self, role: Role) -> None:
        for layer in self.layers.values():
            layer._active_adapter = role
        self._role = role

    @contextmanager
    def of(self, role: Role) -> Iterator[None]:
        """Activate this role's adapter within the block."""
        before = self._role
        self._activate(role)
        try:
            yield
        finally:
            self._activate(before)

    def checkpoint(self, role: Role) -> None:
        """Turn on gradient checkpointing for a role's calls."""
        self.checkpointed.add(role)
        self.module.enable_gradient_checkpointing(self._block)  # type: ignore[operator]

    def _block(self, block: nn.Module, *args: Any) -> Any:
        """Call a block for the active role. The second call, in the backward, when no role is active, activates it
        again."""
        role = self._role
        if role not in self.checkpointed:
            return block(*args)

        def call(*args: Any) -> Any:
            with self.of(role):
                return block(*args)

        return checkpoint(call, *args, use_reentrant=False)


class OnBase(nn.Module):
    """The network of ``role``: the base with the role's adapter. Its parameters are only the adapter's, by plain
    names."""

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
        """The network whose blocks a call passes through."""
        return self.shared.module

    def enable_gradient_checkpointing(self) -> None:
        self.shared.checkpoint(self.role)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with self.shared.of(self.role):
            return self.shared.module(*args, **kwargs)


def _attach(root: nn.Module, name: str, module: nn.Module) -> None:
    """Attach ``module`` as the part ``name`` of ``root``."""
    *above, last = name.split(".")
    for part in above:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    root.add_module(last, module)
