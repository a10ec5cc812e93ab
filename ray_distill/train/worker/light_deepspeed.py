"""Import DeepSpeed for `zero` and `shards` without its unused parts."""

from __future__ import annotations

import logging
import os
import sys
from unittest.mock import patch

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
# DeepSpeed's autotuner, which nothing here uses, would import MLflow: two of its four seconds in each worker.
if without := "mlflow" not in sys.modules:
    sys.modules["mlflow"] = None  # type: ignore[assignment]
import deepspeed  # after DS_ACCELERATOR, which it reads at import
import deepspeed.ops
import deepspeed.runtime.bf16_optimizer
import deepspeed.runtime.compiler
import deepspeed.runtime.zero.parameter_offload
import deepspeed.runtime.zero.stage3
import deepspeed.utils

if without:
    del sys.modules["mlflow"]
# Its Muon optimizer, which nothing here uses, is compiled where it is imported: the first engine of each worker would
# bring 560 modules of torch's compiler with it, a second of CPU time.
with patch.object(deepspeed.runtime.compiler, "compile", lambda *_, **__: lambda function: function):
    import deepspeed.runtime.zero.muon.muon_optimizer
# On a CPU DeepSpeed would compile a shared-memory op for minutes, and needs gcc for it; gloo does without. It looks up
# no other op in this table, and would start gcc to fill it.
deepspeed.ops.__compatible_ops__ = {"deepspeed_shm_comm": False}
deepspeed.utils.logger.setLevel(logging.WARNING)
# The optimizer of bf16 under ZeRO-1 prints the machine's memory seven times, and collects garbage for it.
deepspeed.runtime.bf16_optimizer.see_memory_usage = lambda *_, **__: None

__all__ = ["deepspeed"]
