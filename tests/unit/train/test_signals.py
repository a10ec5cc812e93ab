"""Signals: the first saves, the second leaves; a local Ray does not hear those of the driver's group."""

import os
import signal
import time

import pytest
from ray._private import services

from ray_distill.errors import Stopped
from ray_distill.train.driver.signals import Signals, own_session, watch_signals


def test_the_first_signal_asks_for_a_stop_and_the_second_leaves(capsys):
    asked = []
    signals = Signals(request_stop=lambda: asked.append(1))
    signals.handle(signal.SIGTERM, None)
    assert asked == [1] and "SIGTERM: saving" in capsys.readouterr().err
    with pytest.raises(KeyboardInterrupt):
        signals.handle(signal.SIGTERM, None)
    with pytest.raises(Stopped):
        Signals().handle(signal.SIGTERM, None)


def test_a_signal_that_ends_a_call_of_ray_stops_and_is_no_systemerror():
    """As ray.get and ray.wait of 2.60 hand on what a handler raises; an error of their own stays one."""
    before = signal.getsignal(signal.SIGTERM)
    for second, expected in ((False, Stopped), (True, KeyboardInterrupt)):
        with pytest.raises(expected), watch_signals() as signals:
            signals.signum = signal.SIGTERM if second else None
            try:
                signal.raise_signal(signal.SIGTERM)
            except (Stopped, KeyboardInterrupt) as error:
                raise SystemError("CoreWorker.wait returned a result with an exception set") from error
    with pytest.raises(SystemError), watch_signals():
        raise SystemError("a bug")
    assert signal.getsignal(signal.SIGTERM) is before


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
