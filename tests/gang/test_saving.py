"""A save that fails on one rank ends on all of them alike, without a hang, and the training goes on."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state
from safetensors.torch import load_file

from ray_distill.checkpoint import Checkpoint, latest
from ray_distill.checkpoint.layout import folder_name
from ray_distill.checkpoint.retention import SKIPPING, is_good
from ray_distill.methods import FlowMatching
from ray_distill.rng import StatelessRng
from ray_distill.train.wire.resume_point import ROWS
from ray_distill.train.worker import saving, shards
from ray_distill.train.worker.rollouts import Rollouts
from ray_distill.train.worker.saving import Saver
from ray_distill.train.worker.step import train_step
from ray_distill.types import Placement
from tests.gang.gang import Gang
from tests.gang.jobs import Case, engines, micro_batches, poison_rank_1
from tests.unit.disks import file_limit

WORLD = 4
ANSWERS = patch.object(saving, "ray", SimpleNamespace(get=lambda answer, timeout: answer))
"""In place of Ray, for boards that are none of its actors."""


class Shards:
    """The part of engines that a Saver needs; a collective gathers each tensor, as under ZeRO."""

    def tensors(self, cut: bool) -> Any:
        for number in range(24):
            whole = torch.full((64,), float(number))
            dist.all_reduce(whole)
            yield "student", f"weights/{number}", whole

    def pieces(self) -> Any:
        return iter(())

    def state(self) -> dict[str, Any]:
        return {}

    def skipping(self) -> dict[str, int]:
        return {}

    def carry(self, checkpoint: Any) -> None:
        pass


def saver(rank: int, world: int, folder: str, held: Any, told: list[tuple[str, bool]], on: str = "continue") -> Saver:
    """A Saver whose board is a list, with one row that the driver has not written."""
    board = SimpleNamespace(
        save_failed=SimpleNamespace(remote=lambda why, stop: told.append((why, stop))),
        unwritten=SimpleNamespace(remote=lambda step: [{"step": step - 1}]),
    )
    train, method = SimpleNamespace(on_failed_save=on), SimpleNamespace(roles={})
    config = SimpleNamespace(train=train, method=method, dump=dict, held_roles=())
    stream = SimpleNamespace(cache=SimpleNamespace(folder=Path("cache")))
    job = SimpleNamespace(config=config, run_dir=Path(folder), board=board, run_id=None, stream=stream)
    return Saver(job, Placement(rank, world), held, Rollouts(None, np.empty((0, 1))))  # type: ignore[arg-type]


def one_full_disk(rank: int, world: int, folder: str, wait: bool) -> tuple[list[bool], list[tuple[str, bool]]]:
    """Save three times; at the second save rank 2 cannot write a file."""
    told: list[tuple[str, bool]] = []
    writes = saver(rank, world, folder, Shards(), told, on="continue" if wait else "stop")
    with ANSWERS:
        results = []
        for step in (1, 2, 3):
            with file_limit(100) if (rank, step) == (2, 2) else nullcontext():
                writes.save(step, wait)
                while writes._writing is not None and not wait:
                    writes.poll()  # as at each meeting of the ranks
            dist.barrier()  # rank 0 removes what was half written
            results.append((Path(folder) / folder_name(step)).is_dir())
    return results, told


def test_one_ranks_full_disk_ends_that_save_on_all_ranks(gang: Gang, tmp_path: Path) -> None:
    for wait in (True, False):
        run = tmp_path / str(wait)
        answers = gang.run(one_full_disk, str(run), wait, world=WORLD)
        assert [results for results, _ in answers] == [[True, False, True]] * WORLD
        ((why, stop),) = answers[0][1]
        assert (
            "step_00000002 was not saved (6,144 bytes needed; rank 2: " in why
            and "File too large" in why
            and stop == (not wait)
        )
        assert [told for _, told in answers[1:]] == [[]] * (WORLD - 1)  # once for all
        last = latest(run, thorough=True)
        assert last is not None and last.step == 3 and len(last.names("student", "weights")) == 24
        assert last.state[ROWS] == [{"step": 2}]


def saved_in_pieces(rank: int, world: int, folder: str) -> tuple[int, dict[str, torch.Tensor]]:
    """Save under ZeRO-3: the number of collectives of tensors, and all whole tensors."""
    case = Case(zero=3, micro_batch=2, ema_decay=0.9, method=FlowMatching())
    held = engines(case)
    train_step(case.method, held, micro_batches(case, 0, 0, 1), 0, StatelessRng(0))
    with ANSWERS, patch.object(dist, "all_reduce", wraps=dist.all_reduce) as reduced:
        assert saver(rank, world, folder, held, []).save(1)
    return reduced.call_count, {f"{role}/{name}": tensor.clone() for role, name, tensor in held.tensors()}


def test_each_rank_saves_what_it_holds_under_zero_3(gang: Gang, tmp_path: Path) -> None:
    """Three ranks, so that the last pieces are short or empty; small tensors are one rank's alone."""
    (collectives, wanted), *_ = gang.run(saved_in_pieces, str(tmp_path), world=3)
    saved = Checkpoint(tmp_path / folder_name(1))
    saved.verify()
    files = {path.name: load_file(path) for path in saved.folder.glob("*.safetensors")}
    assert collectives == 0 and sorted(files) == [f"student-{rank:04d}-000.safetensors" for rank in range(3)]
    counts = [sum(tensor.numel() for tensor in tensors.values()) for tensors in files.values()]
    assert sum(counts) == sum(tensor.numel() for tensor in wanted.values()) and max(counts) < 0.4 * sum(counts)
    for kind in ("weights", "exp_avg", "exp_avg_sq", "ema"):
        found, shapes = saved.tensors("student", kind), saved.shapes("student", kind)
        of_kind = {name.removeprefix(f"student/{kind}/"): t for name, t in wanted.items() if f"/{kind}/" in name}
        assert found.keys() == of_kind.keys() and len(found) > 20
        for name, tensor in of_kind.items():
            assert shapes[name] == tensor.shape and torch.equal(found[name], tensor), name


def saved_amid_skips(rank: int, world: int, folder: str) -> tuple[dict[str, int], dict[str, int]]:
    """Two skipped updates a role, then a save; what is skipping before it, and after a load."""
    case = Case()
    held = engines(case)
    poison_rank_1(held, rank)
    for step in range(2):
        train_step(case.method, held, micro_batches(case, step, rank, world), step, StatelessRng(0))
    with ANSWERS:
        assert saver(rank, world, folder, held, []).save(2)
    fresh = engines(case)
    fresh.load(Checkpoint(Path(folder) / folder_name(2)))
    return held.skipping(), fresh.skipping()


def test_a_checkpoint_remembers_that_updates_were_being_skipped(gang: Gang, tmp_path: Path) -> None:
    """A resumed run loses patience when the uninterrupted one does; a rollback goes further back."""
    for before, after in gang.run(saved_amid_skips, str(tmp_path), world=2):
        assert before == after == {"student": 1, "fake_score": 2}
    saved = Checkpoint(tmp_path / folder_name(2))
    assert saved.state[SKIPPING] == {"student": 1, "fake_score": 2} and not is_good(saved)


@dataclass
class Gathered:
    """A save's tensors, and the bytes of each of its collectives."""

    tensors: dict[str, torch.Tensor]
    collectives: list[int]


def gathered(held: Any, bucket_bytes: int) -> Gathered:
    reduce, sizes = dist.all_reduce, []

    def counted(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        sizes.append(tensor.nbytes)
        return reduce(tensor, *args, **kwargs)

    with patch.object(shards, "BUCKET_BYTES", bucket_bytes), patch.object(dist, "all_reduce", counted):
        tensors = {f"{role}/{name}": tensor.clone() for role, name, tensor in held.tensors()}
    return Gathered(tensors, sizes)


def saved_in_buckets(rank: int, world: int, bound: int) -> list[tuple[Gathered, Gathered, dict[str, torch.Tensor]]]:
    """By stage: a save in one bucket, one in buckets of ``bound`` bytes, and the tensors that DeepSpeed gathers one by
    one. One weight is -0."""
    found = []
    for stage in (1, 2, 3):
        held = engines(Case(zero=stage, micro_batch=4, method=FlowMatching()))
        train_step(FlowMatching(), held, micro_batches(Case(micro_batch=4), 0, rank, world), 0, StatelessRng(0))
        role = held._roles["student"]
        shards.set_master(role.trainable[0][1], torch.full(shards.whole_shape(role.trainable[0][1]), -0.0))
        alone = {}
        for name, parameter in role.trainable:
            alone[f"student/weights/{name}"] = safe_get_full_fp32_param(parameter).clone()
            for moment in shards.MOMENTS:
                alone[f"student/{moment}/{name}"] = safe_get_full_optimizer_state(parameter, moment).clone()
        found.append((gathered(held, 1 << 30), gathered(held, bound), alone))
    return found


def test_a_save_gathers_in_few_collectives_of_bounded_bytes(gang: Gang) -> None:
    """Bit for bit what DeepSpeed gathers tensor by tensor, the sign of a zero included."""
    bound = 1 << 14
    for at_once, bucketed, alone in gang.run(saved_in_buckets, bound, world=2)[0]:
        count, most = len(at_once.tensors), max(tensor.nbytes for tensor in at_once.tensors.values())
        assert len(at_once.collectives) == 1 <= 0.05 * count
        assert 1 < len(bucketed.collectives) < count and max(bucketed.collectives) <= max(bound, most)
        assert sum(bucketed.collectives) == sum(at_once.collectives)
        assert at_once.tensors.keys() == bucketed.tensors.keys() > alone.keys()
        for name, tensor in at_once.tensors.items():
            bits = tensor.view(torch.int32)
            assert torch.equal(bits, bucketed.tensors[name].view(torch.int32)), name
            if name in alone:
                assert torch.equal(tensor, alone[name]), name
        assert any(torch.signbit(tensor).all() and (tensor == 0).all() for tensor in at_once.tensors.values())
