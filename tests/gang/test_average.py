"""An average role is the decay-averaged student, runs on those weights, and survives a checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ray_distill.methods import LCM
from ray_distill.models.lora import LoRA
from ray_distill.models.wan.network import WanDenoiser
from tests.adapters import merge
from tests.gang import jobs
from tests.gang.gang import Gang

DECAY = 0.7
CASE = jobs.Case(micro_batch=4, method=LCM(target_decay=DECAY), ema_decay=None)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(replace(CASE, zero=0), marks=pytest.mark.slow),
        pytest.param(CASE, marks=pytest.mark.slow),
        pytest.param(replace(CASE, zero=2, dtype="bfloat16"), marks=pytest.mark.slow),
        pytest.param(replace(CASE, zero=3), marks=pytest.mark.slow),
        pytest.param(replace(CASE, zero=3, dtype="bfloat16"), marks=pytest.mark.slow),
        replace(CASE, zero=3, lora=LoRA(rank=4, alpha=8)),
    ],
    ids=["0", "2", "2-bf16", "3", "3-bf16", "3-lora"],
)
def test_the_target_is_the_averaged_student(gang: Gang, case: jobs.Case) -> None:
    ranks = gang.run(jobs.averaged, case, 3, world=2)
    wanted = ranks[0][0][0]
    for number, (student, average, *_) in enumerate(ranks[0]):
        if number:
            wanted = {name: DECAY * tensor + (1 - DECAY) * student[name] for name, tensor in wanted.items()}
        assert average.keys() == student.keys()
        for name, tensor in average.items():
            torch.testing.assert_close(tensor, wanted[name], rtol=0, atol=1e-6)
    moved = max((t - ranks[0][0][1][name]).abs().max() for name, t in ranks[0][-1][1].items())
    assert moved > jobs.LR / 2
    for rank, states in enumerate(ranks):
        assert states[0][3] == states[-1][3]  # the teacher stays
        assert (states[-1][2] - states[0][2]).abs().max() > 1e-4
        torch.testing.assert_close(states[-1][2], predicted(case, states[-1][1], rank), rtol=0, atol=tolerance(case))


def tolerance(case: jobs.Case) -> float:
    return 1e-5 if case.dtype == "float32" else 2e-2


def predicted(case: jobs.Case, weights: dict[str, torch.Tensor], rank: int) -> torch.Tensor:
    """The prediction of a plain network with ``weights`` for the same batch."""
    module = jobs.tiny_wan(1)
    if case.lora is None:
        module.load_state_dict(weights)
    else:
        merge(module, case.lora, weights)
    (one, *_) = jobs.micro_batches(case, 0, rank, 2)
    with torch.no_grad():
        return WanDenoiser(module)(one.x_0, torch.full((len(one.sample_ids),), 0.5), one.cond).velocity


@pytest.mark.parametrize("zero", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_the_target_survives_a_checkpoint(gang: Gang, tmp_path: Path, zero: int) -> None:
    case = replace(CASE, zero=zero)
    straight = gang.run(jobs.run, case, 5, None, None, 0, str(tmp_path / "c"), 3, world=2)[0]
    resumed = gang.run(jobs.run, case, 5, None, str(tmp_path / "c"), 3, world=2)[0]
    assert {name for name in straight["tensors"] if name.startswith("student_ema/weights/")}
    assert {n for n, t in straight["tensors"].items() if not torch.equal(t, resumed["tensors"][n])} == set()
    other = gang.run(jobs.averaged, replace(case, zero=5 - zero, micro_batch=8), 3, str(tmp_path / "c"), 3, world=1)[0]
    ours = gang.run(jobs.averaged, case, 3, str(tmp_path / "c"), 3, world=2)[0]
    for name, tensor in ours[0][1].items():
        assert torch.equal(tensor, other[0][1][name])
