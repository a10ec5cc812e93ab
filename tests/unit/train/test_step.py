from contextlib import contextmanager
from mmap import mmap

import pytest
import torch

from ray_distill.methods import DMD
from ray_distill.rng import StatelessRng
from ray_distill.train.worker import laps as laps_module
from ray_distill.train.worker.laps import Laps, resident
from ray_distill.train.worker.step import train_step
from ray_distill.types import Prediction
from tests.unit.toys import Gaussian, batch


class Held:
    """Engines that only note what is asked of them."""

    def __init__(self, **networks):
        self.networks, self.stepped = networks, []

    @contextmanager
    def training(self, role):
        yield

    def backward(self, role, loss, last):
        pass

    def step(self, role):
        self.stepped.append(role)
        return {f"{role}_lr": torch.tensor(0.1)}


def broken(x_t, sigma, cond):
    raise RuntimeError("out of memory")


def test_values_of_all_micro_batches_come_back():
    held = Held(student=Gaussian(1.0), fake_score=Gaussian(0.0), teacher=Gaussian(2.0))
    method = DMD(student_interval=1, teacher_guidance=1.0)
    logs = train_step(method, held, [batch([0, 1]), batch([2, 3])], 0, StatelessRng(0))
    assert held.stepped == ["student", "fake_score"]
    whole = train_step(method, held, [batch(range(4))], 0, StatelessRng(0))
    assert logs["dmd_loss"].shape == (2,) and whole["dmd_loss"].shape == (1,)
    assert torch.equal(logs["dmd_norm_min"], whole["dmd_norm_min"])  # one value a sample, in their order
    assert logs["student_lr"].tolist() == pytest.approx([0.1])


def test_seconds_belong_to_the_role_that_is_updated():
    """A clock that a forward moves by 2 s, a backward by 1 s and a step by 0.25 s, on two micro-batches; what comes
    between steps belongs to none."""
    now, marks, lasts = [0.0], [], {"forward": 2.0, "backward": 1.0, "step": 0.25}

    def at(phase, role="", **place):
        marks.append((phase, role))
        now[0] += lasts[phase]

    laps = Laps(at, torch.device("cpu"), lambda: now[0])
    held = Held(student=Gaussian(1.0), fake_score=Gaussian(0.0), teacher=Gaussian(2.0))
    for interval, seconds in (
        (1, {"seconds/student": 6.25, "seconds/fake_score": 6.25}),
        (5, {"seconds/fake_score": 6.25}),
    ):
        now[0] += 100.0
        train_step(DMD(student_interval=interval), held, [batch([0]), batch([1])], 1, StatelessRng(0), laps)
        now[0] += 0.5  # the last role's, as the seconds of its pulls are
        found = {name: value.item() for name, value in laps.take().items() if name.startswith("seconds/")}
        assert found == {**seconds, "seconds/fake_score": 6.75}
        now[0] += 100.0
    assert marks[:5] == [("forward", "student"), ("backward", "student")] * 2 + [("step", "student")]
    assert laps.take() == {}


def test_peak_bytes_belong_to_the_role_that_is_updated(monkeypatch):
    """On a CPU the most resident bytes at the ends of a role's phases, on a GPU torch's peak since the phase began; the
    peak of all phases outlives the resets."""
    most = {"forward": 7, "backward": 9, "step": 4}
    phases, peaks = [], {"student": 9.0, "fake_score": 18.0}

    def at(phase, role="", **place):
        phases.append(most[phase] * (2 if role == "fake_score" else 1))

    def bytes_of(laps):
        train_step(DMD(student_interval=1), held, [batch([0]), batch([1])], 1, StatelessRng(0), laps)
        return {name: value.item() for name, value in laps.take().items() if name.startswith("bytes/")}

    held = Held(student=Gaussian(1.0), fake_score=Gaussian(0.0), teacher=Gaussian(2.0))
    monkeypatch.setattr(laps_module, "resident", lambda: phases[-1])
    cpu = Laps(at, torch.device("cpu"))
    expected = {f"bytes/{role}": peak for role, peak in peaks.items()}
    assert bytes_of(cpu) == expected and cpu.most == 0 and bytes_of(cpu) == expected
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    before = [50]  # a start outside of all updates
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: before[0] or phases[-1])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: before.__setitem__(0, 0))
    gpu = Laps(at, torch.device("cuda"))
    assert bytes_of(gpu) == expected and gpu.most == 50 and laps_module.resident() > 0


def test_the_resident_bytes_of_this_process_are_read():
    before = resident()
    with mmap(-1, 64 << 20) as pages:  # memory of the heap may be resident since an earlier test
        pages.write(b"1" * len(pages))
        assert before > 0 and resident() - before > len(pages) // 2


def test_a_failing_fake_score_update_raises():
    """Nothing swallows it, and the update after it does not happen."""
    held = Held(student=lambda x, s, c: Prediction(x), fake_score=broken, teacher=Gaussian(2.0))
    with pytest.raises(RuntimeError, match="out of memory"):
        train_step(DMD(), held, [batch()], 0, StatelessRng(0))
    assert held.stepped == []
