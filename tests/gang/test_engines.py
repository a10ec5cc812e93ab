"""Worlds, ZeRO stages, accumulation, skips and resume: the numerics of sharded roles (oracle 18)."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from deepspeed.runtime.config import DeepSpeedConfig

from ray_distill.checkpoint import Checkpoint
from ray_distill.config import RoleConfig
from ray_distill.config.roles import Optimizer
from ray_distill.models.lora import LoRA
from ray_distill.rng import StatelessRng
from ray_distill.train.worker.step import train_step
from ray_distill.train.worker.zero import settings
from tests.gang import jobs, plain
from tests.gang.gang import Gang

TOLERANCE = 0.05 * jobs.LR
STEPS = 10
ADAPTERS = LoRA(rank=4, alpha=8)


def weights(result: dict) -> dict[str, torch.Tensor]:
    return {name: t for name, t in result["tensors"].items() if "/weights/" in name or "/ema/" in name}


def distance(a: dict, b: dict) -> float:
    left, right = weights(a), weights(b)
    assert left.keys() == right.keys()
    return max((left[name] - right[name]).abs().max().item() for name in left)


@pytest.fixture(scope="module")
def reference(gang: Gang) -> dict:
    """World 1, torch alone, no accumulation: what every way of holding the roles must equal."""
    return gang.run(plain.run, jobs.Case(micro_batch=8), STEPS, world=1)[0]


def assert_moved(result: dict, start: dict[str, torch.Tensor]) -> None:
    assert {n for n in result["tensors"] if "/weights/" in n or "/ema/" in n} == start.keys()
    for role in ("student", "fake_score"):
        moved = [(result["tensors"][n] - t).abs().max() for n, t in start.items() if n.startswith(f"{role}/weights")]
        assert max(moved) > jobs.LR
        assert result["logs"][f"{role}_grad_norm"] > 0


def test_parameters_moved(reference: dict) -> None:
    assert_moved(reference, jobs.initial(jobs.Case()))


def modules_of_an_engine(rank: int, world: int) -> tuple[bool, list[str]]:
    """Whether the engines came in before they were built, and what torch's compiler has brought in with them."""
    held = jobs.engines(jobs.Case())
    train_step(jobs.Case().method, held, jobs.micro_batches(jobs.Case(), 0, rank, world), 0, StatelessRng(0))
    return "deepspeed.runtime.zero.muon.original_muon" in sys.modules, [n for n in sys.modules if "compile_fx" in n]


def test_an_engine_brings_no_compiler(gang: Gang) -> None:
    """DeepSpeed imports an optimizer that torch compiles at once: seconds in each worker."""
    assert gang.run(modules_of_an_engine, world=1) == [(True, [])]


@pytest.mark.parametrize(
    ("world", "case"),
    [
        (1, jobs.Case(zero=2, micro_batch=8)),
        (2, jobs.Case(zero=0, micro_batch=2)),
        (2, jobs.Case(zero=1, micro_batch=2)),
        (2, jobs.Case(zero=3, micro_batch=4, gradient_checkpointing=True)),
        (4, jobs.Case(zero=2, micro_batch=2)),
        pytest.param(1, jobs.Case(zero=0, micro_batch=8), marks=pytest.mark.slow),
        pytest.param(4, jobs.Case(zero=0, micro_batch=1, gradient_checkpointing=True), marks=pytest.mark.slow),
        pytest.param(1, jobs.Case(zero=1, micro_batch=4), marks=pytest.mark.slow),
        pytest.param(1, jobs.Case(zero=3, micro_batch=8), marks=pytest.mark.slow),
        pytest.param(2, jobs.Case(zero=2, micro_batch=4), marks=pytest.mark.slow),
        pytest.param(4, jobs.Case(zero=1, micro_batch=1, gradient_checkpointing=True), marks=pytest.mark.slow),
        pytest.param(4, jobs.Case(zero=3, micro_batch=2), marks=pytest.mark.slow),
    ],
    ids=lambda value: f"zero{value.zero}" if isinstance(value, jobs.Case) else str(value),
)
def test_worlds_stages_and_accumulation_agree(gang: Gang, reference: dict, world: int, case: jobs.Case) -> None:
    results = gang.run(jobs.run, case, STEPS, world=world)
    assert distance(results[0], reference) < TOLERANCE
    for other in results[1:]:
        assert distance(results[0], other) == 0.0
    for result in results:
        assert result["frozen"][0] == result["frozen"][1]
        assert result["state"] == {
            "student": {"updates": STEPS // 2, "skipped": 0},
            "fake_score": {"updates": STEPS, "skipped": 0},
        }


@pytest.mark.slow
@pytest.mark.parametrize("zero", [1, 2, 3])
def test_what_is_offloaded_trains_as_what_is_not(gang: Gang, tmp_path: Path, zero: int) -> None:
    """Optimizer, average and, under ZeRO-3, weights; saved and resumed, too."""
    case = jobs.Case(zero=zero, micro_batch=4, offload=True)
    kept = gang.run(jobs.run, replace(case, offload=False), 4, world=2)[0]
    moved = gang.run(jobs.run, case, 4, None, None, 0, str(tmp_path / "c"), 2, world=2)[0]
    resumed = gang.run(jobs.run, case, 4, None, str(tmp_path / "c"), 2, world=2)[0]
    assert distance(moved, kept) < 1e-3 * TOLERANCE
    assert {n for n, t in moved["tensors"].items() if not torch.equal(t, resumed["tensors"][n])} == set()
    assert_moved(moved, jobs.initial(case))


def test_the_average_follows_masters_of_which_deepspeed_returns_copies(gang: Gang, tmp_path: Path) -> None:
    """On a GPU ZeRO-3 returns copies of masters in CPU memory; in several groups, saved and resumed, too."""
    case = jobs.Case(zero=3, micro_batch=8, method=jobs.FlowMatching(), offload=True)
    views = gang.run(jobs.run, case, 4, world=1)[0]
    copies = gang.run(jobs.run_offloaded, case, None, 0, str(tmp_path / "c"), 2, world=1)[0]
    resumed = gang.run(jobs.run_offloaded, case, str(tmp_path / "c"), 2, world=1)[0]["tensors"]
    assert distance(views, copies) < 1e-3 * TOLERANCE
    assert {name for name, tensor in copies["tensors"].items() if not torch.equal(tensor, resumed[name])} == set()
    start = jobs.initial(case)
    moved = [t - start[name] for name, t in copies["tensors"].items() if "/ema/" in name]
    assert max(tensor.abs().max() for tensor in moved) > 0.3 * jobs.LR


def test_offload_is_deepspeeds_and_each_roles_own() -> None:
    adamw = Optimizer(learning_rate=1e-3, clip_norm=2.0)
    held = RoleConfig(zero=3, dtype="bfloat16", optimizer=adamw, offload_optimizer=True, offload_parameters=True)
    made = DeepSpeedConfig(settings(held, 2, 1000))
    assert made.zero_config.offload_optimizer.device == made.zero_config.offload_param.device == "cpu"
    assert (made.zero_optimization_stage, made.gradient_clipping, made.bfloat16_config.enabled) == (3, 2.0, True)
    assert made.zero_config.reduce_bucket_size == 1000 and not made.zero_force_ds_cpu_optimizer
    plainly = DeepSpeedConfig(settings(RoleConfig(zero=3), 2, 10**12)).zero_config
    assert plainly.offload_optimizer is plainly.offload_param is None and plainly.reduce_bucket_size == 5 * 10**8


@pytest.mark.parametrize("fault", [jobs.halve_rank_0, jobs.leave_out_the_reduction])
def test_a_planted_fault_is_seen(gang: Gang, reference: dict, fault) -> None:
    results = gang.run(jobs.run, jobs.Case(micro_batch=4), STEPS, fault, world=2)
    assert distance(results[0], reference) > TOLERANCE


@pytest.mark.parametrize(("zero", "checkpointing"), [(2, False), pytest.param(3, True, marks=pytest.mark.slow)])
def test_adapters_agree_and_their_base_stays(gang: Gang, zero: int, checkpointing: bool) -> None:
    alone = jobs.Case(zero=1, micro_batch=8, lora=ADAPTERS)
    reference = gang.run(jobs.run, alone, world=1)[0]
    assert_moved(reference, jobs.initial(alone))
    assert all(".lora_" in name for name in reference["tensors"])
    case = replace(alone, zero=zero, micro_batch=4, gradient_checkpointing=checkpointing)
    for result in gang.run(jobs.run, case, world=2):
        assert distance(result, reference) < TOLERANCE
        assert result["frozen"][0] == result["frozen"][1]  # the teacher and both bases


def test_adapters_learn_on_an_int8_base_which_stays(gang: Gang) -> None:
    alone = jobs.Case(zero=1, dtype="bfloat16", micro_batch=8, lora=ADAPTERS, base_precision="int8")
    reference = gang.run(jobs.run, alone, world=1)[0]
    assert_moved(reference, jobs.initial(alone))
    assert all(".lora_" in name for name in reference["tensors"])
    sharded = replace(alone, zero=2, micro_batch=4, gradient_checkpointing=True)
    exact = gang.run(jobs.run, replace(sharded, base_precision="dtype"), world=2)[0]
    for result in gang.run(jobs.run, sharded, world=2):
        assert result["frozen"][0] == result["frozen"][1]
        rough = [abs(result["logs"][n] - exact["logs"][n]) / abs(exact["logs"][n]) for n in ("fake_score_loss",)]
        assert max(rough) < 0.1 and result["frozen"] != exact["frozen"]


@pytest.mark.parametrize(
    "case",
    [
        jobs.Case(zero=0, micro_batch=4),
        pytest.param(jobs.Case(zero=1, micro_batch=4), marks=pytest.mark.slow),
        jobs.Case(zero=2, dtype="bfloat16", micro_batch=4, ema_warmup=True),
        pytest.param(jobs.Case(zero=3, micro_batch=4), marks=pytest.mark.slow),
        pytest.param(
            jobs.Case(zero=3, dtype="bfloat16", micro_batch=4, lora=ADAPTERS, ema_interval=2), marks=pytest.mark.slow
        ),
    ],
    ids=["0", "1", "2-bf16", "3", "3-bf16-lora"],
)
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(gang: Gang, tmp_path: Path, case: jobs.Case) -> None:
    straight = gang.run(jobs.run, case, 5, None, None, 0, str(tmp_path / "c"), 3, world=2)[0]
    resumed = gang.run(jobs.run, case, 5, None, str(tmp_path / "c"), 3, world=2)[0]
    assert straight["tensors"].keys() == resumed["tensors"].keys()
    assert {n for n, t in straight["tensors"].items() if not torch.equal(t, resumed["tensors"][n])} == set()
    assert straight["state"] == resumed["state"]
    if case.dtype == "bfloat16":
        masters = torch.cat([t.flatten() for n, t in straight["tensors"].items() if "student/weights/" in n])
        assert (masters != masters.bfloat16().float()).float().mean() > 0.5  # the masters are finer than bf16


@pytest.fixture(scope="module")
def long_reference(gang: Gang) -> dict:
    return gang.run(jobs.run, jobs.Case(micro_batch=8), 12, world=1)[0]


@pytest.mark.parametrize(
    ("before", "stage_before", "after", "stage"),
    [
        (2, 1, 1, 2),
        pytest.param(1, 2, 2, 3, marks=pytest.mark.slow),
        pytest.param(2, 3, 4, 1, marks=pytest.mark.slow),
        pytest.param(2, 0, 1, 3, marks=pytest.mark.slow),
        pytest.param(1, 3, 2, 0, marks=pytest.mark.slow),
    ],
    ids=["2-to-1", "1-to-2", "2-to-4", "2-to-1-from-whole", "1-to-2-to-whole"],
)
def test_another_world_and_stage_resume_within_tolerance(
    gang: Gang, long_reference: dict, tmp_path: Path, before: int, stage_before: int, after: int, stage: int
) -> None:
    """Ten steps on, at the same global batch; each stage once gives and once takes a checkpoint."""
    first = jobs.Case(zero=stage_before, micro_batch=2)
    gang.run(jobs.run, first, 2, None, None, 0, str(tmp_path / "c"), world=before)
    then = jobs.Case(zero=stage, micro_batch=1 if after == 4 else 4)
    resumed = gang.run(jobs.run, then, 12, None, str(tmp_path / "c"), 2, world=after)
    assert resumed[0]["state"] == long_reference["state"]
    assert distance(resumed[0], long_reference) < TOLERANCE
    assert all(distance(resumed[0], other) == 0.0 for other in resumed[1:])


@pytest.mark.parametrize(
    ("zero", "dtype", "offload"),
    [
        (0, "float32", False),
        (2, "float32", False),
        (2, "bfloat16", False),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (1, "float32", False),
                (1, "bfloat16", False),
                (2, "float32", True),
                (2, "bfloat16", True),
                (3, "float32", False),
                (3, "bfloat16", False),
            )
        ),
    ],
)
def test_one_bad_rank_makes_all_ranks_skip(gang: Gang, zero: int, dtype: str, offload: bool) -> None:
    case = jobs.Case(zero=zero, dtype=dtype, offload=offload, micro_batch=4)
    results = gang.run(jobs.run, case, 2, jobs.poison_rank_1, world=2)
    for result in results:
        assert result["state"]["student"] == {"updates": 0, "skipped": 1}
        assert result["state"]["fake_score"] == {"updates": 0, "skipped": 2}
        assert all(torch.equal(result["tensors"][name], t) for name, t in jobs.initial(case).items())


def with_buckets(rank: int, world: int, case: jobs.Case) -> dict:
    """State and tensors of a run whose gradients are copied into buckets, as on a GPU."""

    def bucketed(*given: object) -> dict:
        own = settings(*given)  # type: ignore[arg-type]
        own["zero_optimization"]["contiguous_gradients"] = True
        return own

    def seen(held: jobs.DeepSpeedEngines, rank: int) -> None:
        assert all(entry.engine.zero_contiguous_gradients() for entry in held._trained.values())

    with patch("ray_distill.train.worker.zero.settings", bucketed):
        return jobs.run(rank, world, case, 4, seen)


@pytest.mark.parametrize(
    ("zero", "dtype"),
    [
        (2, "float32"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((1, "float32"), (2, "bfloat16"), (3, "float32"))),
    ],
)
def test_the_buckets_of_a_gpu_change_no_bit(gang: Gang, zero: int, dtype: str) -> None:
    case = jobs.Case(zero=zero, dtype=dtype, micro_batch=4)
    plainly, copied = gang.run(jobs.run, case, 4, world=2)[0], gang.run(with_buckets, case, world=2)[0]
    assert copied["state"] == plainly["state"] and distance(copied, plainly) == 0.0


def test_skips_without_end_are_an_error_on_all_ranks(gang: Gang) -> None:
    for said in gang.run(jobs.end_of_patience, jobs.Case(micro_batch=4), world=2):
        assert "fake_score was not finite in 3 updates in a row, after 0 good ones" in said


def test_a_role_that_is_not_updated_stays_bit_identical(gang: Gang) -> None:
    case = jobs.Case(micro_batch=8, method=jobs.DMD(student_interval=100))
    start, result = jobs.initial(case), gang.run(jobs.run, case, 2, world=1)[0]
    for name, tensor in start.items():
        same = torch.equal(tensor, result["tensors"][name])
        assert same if name.startswith("student/") else True
    assert any(not torch.equal(t, result["tensors"][n]) for n, t in start.items() if n.startswith("fake_score/weights"))


def test_the_fake_scores_gradient_is_that_of_all_ranks(gang: Gang) -> None:
    """One step, seen in AdamW's first moment: on two ranks it is the whole batch's, not that of a rank's half."""
    method = jobs.DMD(student_interval=100)

    def first_moment(micro_batch: int, world: int, fault=None) -> torch.Tensor:
        case = jobs.Case(zero=2, micro_batch=micro_batch, method=method, clip_norm=0.0)
        tensors = gang.run(jobs.run, case, 1, fault, world=world)[0]["tensors"]
        return torch.cat([t.flatten() for n, t in tensors.items() if n.startswith("fake_score/exp_avg/")])

    whole = first_moment(8, 1)
    torch.testing.assert_close(first_moment(4, 2), whole, rtol=1e-3, atol=1e-6)
    assert (first_moment(4, 2, jobs.leave_out_the_reduction) - whole).abs().max() > 0.1 * whole.abs().max()


def slowly(rank: int, world: int, case: jobs.Case) -> dict:
    with patch.object(jobs, "LR", 1e-6):
        return jobs.run(rank, world, case, 3)


def test_masters_move_where_bf16_would_not(gang: Gang) -> None:
    """Three updates of 1e-6: below bf16's step of every weight above 2.6e-4, and not lost."""
    case = jobs.Case(dtype="bfloat16", micro_batch=8, method=jobs.FlowMatching(), ema_decay=None)
    result = gang.run(slowly, case, world=1)[0]["tensors"]
    start = jobs.initial(case)
    before = torch.cat([t.flatten() for t in start.values()])
    after = torch.cat([result[name].flatten() for name in start])
    large = before.abs() > 1e-2
    same = after[large].bfloat16() == before[large].bfloat16()
    assert same.float().mean() > 0.9  # what a bf16 optimizer would have: nothing
    moved = (after - before).abs()[large]
    assert moved.median().item() == pytest.approx(3e-6, rel=0.5) and moved.max() < 4e-6


def test_norm_and_value_clip_under_every_stage(gang: Gang) -> None:
    clips = [{"clip_norm": 0.0}, {"clip_norm": 0.01}, {"clip_norm": 0.0, "clip_value": 1e-3}]
    for seen in gang.run(jobs.first_gradients, clips, world=2):
        for zero in (0, 1, 2, 3):
            free, by_norm, by_value = (seen[zero, number] for number in range(len(clips)))
            assert free.norm() > 0.02 and (free.abs() > 2e-3).any() and (free.abs() < 5e-4).any()
            torch.testing.assert_close(by_norm, free * 0.01 / free.norm(), rtol=1e-4, atol=1e-8)
            torch.testing.assert_close(by_value, free.clamp(-1e-3, 1e-3), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(
    ("dtype", "rounding"), [("float32", 1e-3), pytest.param("bfloat16", 2e-2, marks=pytest.mark.slow)]
)
def test_a_large_gradient_is_clipped_once_and_logged_as_it_was(gang: Gang, dtype: str, rounding: float) -> None:
    """A norm of 55 under each stage, clipped to 10, to 1 and not at all."""
    for seen in gang.run(jobs.large_gradients, 55.0, [10.0, 1.0, 0.0], dtype, world=2):
        for (zero, clip), found in seen.items():
            assert found["norm"] == pytest.approx(55, rel=rounding), (zero, clip)
            assert found["given"].norm().item() == pytest.approx(clip or 55, rel=rounding), (zero, clip)
            wanted = seen[2, clip]
            torch.testing.assert_close(found["given"], wanted["given"], rtol=rounding, atol=rounding**2 * (clip or 55))
            if dtype == "float32":  # AdamW's first step is a sign, which rounding may turn
                assert (found["weights"] - wanted["weights"]).abs().max() < TOLERANCE


def test_no_key_of_deepspeeds_is_left_to_its_default_in_one_branch() -> None:
    """Each setting that some role sets is set for all; only offloading, which is off where it is absent, is not."""
    optimizer = Optimizer(learning_rate=1e-3, clip_norm=2.0)
    made = [
        settings(RoleConfig(zero=zero, dtype=dtype, optimizer=trained), 2, 1000)
        for zero in (0, 1, 2, 3)
        for dtype in ("float32", "bfloat16")
        for trained in (None, optimizer)
        if zero or dtype == "float32" or trained is None
    ]
    for one in made[1:]:
        assert one.keys() == made[0].keys()
        assert one["zero_optimization"].keys() == made[0]["zero_optimization"].keys()
        assert one["data_types"].keys() == made[0]["data_types"].keys()
    frozen = DeepSpeedConfig(settings(RoleConfig(zero=0, optimizer=optimizer), 2, 1000))
    assert frozen.gradient_clipping == 0.0


@pytest.mark.parametrize(("warmup", "kept"), [(False, 0.9), (True, 2 / 11)])
def test_the_average_moves_at_its_interval(gang: Gang, tmp_path: Path, warmup: bool, kept: float) -> None:
    case = jobs.Case(zero=1, micro_batch=8, method=jobs.FlowMatching(), ema_interval=2, ema_warmup=warmup)
    start = jobs.initial(case)
    after_3 = gang.run(jobs.run, case, 3, None, None, 0, str(tmp_path / "c"), 2, world=1)[0]["tensors"]
    after_2 = Checkpoint(tmp_path / "c").tensors("student", "weights")
    for name, weights in after_2.items():
        average = kept * start[f"student/ema/{name}"] + (1 - kept) * weights
        torch.testing.assert_close(after_3[f"student/ema/{name}"], average, rtol=0, atol=1e-6)
    assert max((w - start[f"student/weights/{n}"]).abs().max() for n, w in after_2.items()) > jobs.LR


def test_a_loss_that_reaches_nothing_is_an_error(gang: Gang) -> None:
    case = jobs.Case(zero=1, micro_batch=8, method=jobs.FlowMatching())
    with pytest.raises(RuntimeError, match="gradient of student was exactly 0 in 10 updates in a row"):
        gang.run(jobs.run, case, 10, jobs.cut_off, world=1)


def test_an_average_is_added_and_a_new_run_begins_with_the_weights(gang: Gang, tmp_path: Path) -> None:
    """Of a run that had none, the average begins with its weights, and follows; a new run has no moments of the old."""
    case = jobs.Case(micro_batch=4, method=jobs.FlowMatching())
    result = gang.run(jobs.begun, case, str(tmp_path / "c"), world=2)[0]
    stored, resumed, further, new = (result[name] for name in ("stored", "resumed", "further", "new"))
    names = [name for name in stored if "student/weights/" in name]
    assert names and not any("/ema/" in name for name in stored)
    for name in names:
        average = name.replace("/weights/", "/ema/")
        assert torch.equal(resumed[name], stored[name]) and torch.equal(resumed[average], stored[name])
        torch.testing.assert_close(further[average], 0.9 * stored[name] + 0.1 * further[name])
        assert torch.equal(new[name], stored[name]) and torch.equal(new[average], stored[name])
    assert any(not torch.equal(further[name], stored[name]) for name in names)
    assert any("/exp_avg/" in name for name in resumed) and not any("/exp_avg/" in name for name in new)
    assert all(counters["updates"] == 0 for counters in result["state"].values())
