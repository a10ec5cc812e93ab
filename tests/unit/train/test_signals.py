"""Signals: the first saves, the second leaves; a local Ray does not hear those of the driver's group."""

import os
import signal
import time

import pytest
from ray._private import services

from ray_distill.errors import Stopped
from ray_distill.train.driver.signals import own_session, watch_signals


def test_the_first_signal_asks_for_a_stop_and_the_second_leaves(capsys):
    asked = []
    with pytest.raises(Stopped) as stopped, watch_signals() as signals:
        signals.request_stop = lambda: asked.append(1)
        signal.raise_signal(signal.SIGTERM)
        assert asked == [1] and "SIGTERM: saving" in capsys.readouterr().err
        signal.raise_signal(signal.SIGINT)
    assert asked == [1] and stopped.value.signum == signal.SIGTERM


def test_where_there_is_nothing_to_save_the_first_signal_leaves():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match="goes on from there") as stopped, watch_signals():
        signal.raise_signal(signal.SIGTERM)
    assert stopped.value.signum == signal.SIGTERM and signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(KeyboardInterrupt), watch_signals():
        raise KeyboardInterrupt  # none of ours


def started():
    return services.start_ray_process(["sleep", "60"], "sleep", fate_share=False).process


def test_a_ray_that_is_started_is_in_a_group_of_its_own():
    """A signal to the driver's group does not reach it; one that is started outside is reached."""
    plain = services.ConsolePopen
    with own_session():
        own = started()
    assert services.ConsolePopen is plain
    shared = started()
    try:
        assert os.getpgid(own.pid) == os.getsid(own.pid) == own.pid != os.getpgrp() == os.getpgid(shared.pid)
        os.killpg(own.pid, signal.SIGTERM)
        deadline = time.monotonic() + 30
        while own.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert own.poll() == -signal.SIGTERM and shared.poll() is None
    finally:
        for process in (own, shared):
            process.kill()
            process.wait()


def test_an_error_at_the_start_leaves_ray_as_it_was():
    plain = services.ConsolePopen
    with pytest.raises(ValueError, match="no"), own_session():
        raise ValueError("no")
    assert services.ConsolePopen is plain
