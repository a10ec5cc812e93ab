"""One rank of the gang: it answers jobs, each in a process group of its own."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import inspect
import os
import pickle
import signal
import traceback
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import deepspeed
import torch
from deepspeed.runtime.zero import parameter_offload
from deepspeed.runtime.zero.partition_parameters import Init


def serve(rank: int, pipe: Connection, stack: str) -> None:
    """A rank's life: one job after the other until the tests' end of the pipe closes."""
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else the first engine compiles it for minutes
    torch.set_num_threads(1)
    with Path(stack).open("w") as file, contextlib.suppress(EOFError):
        faulthandler.register(signal.SIGUSR1, file=file, all_threads=False)
        while True:
            job = pipe.recv_bytes()
            try:
                answer = _work(rank, job)
            except BaseException as error:
                answer = _failure(rank, error)
            pipe.send_bytes(answer)


def _work(rank: int, job: bytes) -> bytes:
    fn, args, world, store, timeout = pickle.loads(job)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(world))
    torch.manual_seed(0)  # what an earlier test drew must not matter
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=world, timeout=timedelta(seconds=timeout)
    )
    deepspeed.init_distributed("gloo", verbose=False)  # adopts the group, so that DeepSpeed can let go of it below
    answer = pickle.dumps(fn(rank, world, *args))  # plain pickle copies tensors: nothing is shared with this process
    gc.collect()  # engines hold groups
    deepspeed.comm.destroy_process_group()  # torch's groups and DeepSpeed's references to them
    _restart_zero_counters()
    return answer


def _restart_zero_counters() -> None:
    """ZeRO-3 numbers modules and parameters per process and demands that ranks agree: pasts of ranks differ here."""
    register = parameter_offload.DeepSpeedZeRoOffload._register_deepspeed_module
    inspect.signature(register).parameters["count"].default[0] = 0
    parameter_offload.FWD_MODULE_STACK.clear()  # it would keep every model of the session
    Init.param_id = Init.num_persisted_parameters = Init.num_persisted_elements = 0


def _failure(rank: int, error: BaseException) -> bytes:
    error.add_note(f"on rank {rank} of the gang:\n{''.join(traceback.format_exception(error))}")
    with contextlib.suppress(Exception):  # an exception need not survive pickling; its text does
        answer = pickle.dumps(error)
        pickle.loads(answer)
        return answer
    return pickle.dumps(RuntimeError("\n".join([repr(error), *error.__notes__])))
