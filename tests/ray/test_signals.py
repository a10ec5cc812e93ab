"""A signal ends a call of Ray's at once."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
import ray

from ray_distill.errors import Stopped
from ray_distill.train.driver.signals import watch_signals


@ray.remote(num_cpus=0)
def sleep() -> None:
    time.sleep(600)


@pytest.mark.parametrize("call", ["get", "wait"])
def test_a_signal_ends_a_call_of_ray_before_its_task_ends(local_ray: None, call: str) -> None:
    """Evaluation waits for its tasks with nothing to save; a job that is stopped is killed after its grace."""
    task = sleep.remote()
    timer = threading.Timer(1, os.kill, [os.getpid(), signal.SIGTERM])
    try:
        with pytest.raises(Stopped), watch_signals():
            timer.start()
            if call == "get":
                ray.get(task, timeout=60)
            else:
                ray.wait([task], timeout=60)
        assert ray.wait([task], timeout=0)[0] == []
    finally:
        timer.join()
        ray.cancel(task, force=True)
