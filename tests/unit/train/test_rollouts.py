"""Rollouts that go on from step to step leave with a checkpoint, sample by sample, and come back in any grouping."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ray_distill.checkpoint import Checkpoint
from ray_distill.data.feed.order import share
from ray_distill.methods import SelfForcing
from ray_distill.rng import StatelessRng
from ray_distill.train.worker.rollouts import ROLE, Rollouts, rollout_of, tensors_by_name
from ray_distill.types import Cache, Rollout, Window
from tests.checkpoints import write
from tests.unit.methods.test_self_forcing import wans
from tests.unit.toys import batch

METHOD = SelfForcing(
    num_frame_per_block=1,
    num_training_frames=2,
    window=3,
    sink=1,
    rollout_frames=8,
    rollout_overlap=1,
    timesteps=(1000,),
)
CPU = torch.device("cpu")


def parts(data, positions):
    """The micro-batches of ``data`` at ``positions``."""
    rows = [torch.from_numpy(each) for each in positions]
    texts = [{"text": data.cond["text"][row]} for row in rows]
    shape = data.latent_shape
    return [batch(row.tolist(), shape, cond=text, uncond=text) for row, text in zip(rows, texts, strict=True)]


def rolled(rollouts, batches, student, steps):
    """The last windows of the micro-batches after ``steps``, sample after sample."""
    for step in steps:
        joined = [METHOD.joined(each) for each in rollouts.join(batches)]
        windows = [METHOD.roll_out(student, each, StatelessRng(0, step), "student", False) for each in joined]
    return torch.cat(windows)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder of a checkpoint that two ranks of a micro-batch of 2 wrote after 4 windows, networks, data, next two)."""
    folder = tmp_path_factory.mktemp("run") / "step_00000004"
    _, held, data = wans(samples=4, frames=2)
    ranks = [Rollouts("saved", share(4, rank, 2, 2), Window(3, 1)) for rank in range(2)]
    kept = []
    for rollouts in ranks:
        rolled(rollouts, parts(data, rollouts.positions), held, range(4))
        kept.append([*rollouts.tensors()])
    whole = [("student", "weights/a", torch.ones(2))]
    write(folder, whole, {"step": 4}, 0, 1, lambda value: [value], [*kept[0], *kept[1]])
    following = torch.cat([rolled(r, parts(data, r.positions), held, (4, 5)) for r in ranks])
    return folder, held, data, following, ranks


@pytest.mark.parametrize("micro_batch", [1, 2, 4])
def test_it_goes_on_in_micro_batches_of_another_size(made, micro_batch):
    folder, held, data, following, _ = made
    rollouts = Rollouts("saved", share(4, 0, 1, micro_batch), Window(3, 1))
    rollouts.load(Checkpoint(folder), CPU)
    assert [r.frames for r in rollouts._rollouts] == [5] * (4 // micro_batch)
    assert list(rollouts._rollouts[0].cache.chunks) == [(0, 1), (3, 4)] and rollouts._rollouts[0].cache.frames == 4
    again = rolled(rollouts, parts(data, rollouts.positions), held, (4, 5))
    if micro_batch == 2:
        assert torch.equal(again, following)
    torch.testing.assert_close(again, following, atol=1e-5, rtol=0)


def test_without_the_cache_it_would_be_another_video(made):
    folder, held, data, following, _ = made
    rollouts = Rollouts("saved", share(4, 0, 1, 2), Window(3, 1))
    rollouts.load(Checkpoint(folder), CPU)
    for each in rollouts._rollouts:
        each.cache.chunks = {run: tuple((0 * k, v) for k, v in layers) for run, layers in each.cache.chunks.items()}
    again = rolled(rollouts, parts(data, rollouts.positions), held, (4, 5))
    assert (again - following).abs().max() > 1e-4


def test_a_save_keeps_what_is_under_way_or_ends_it(made):
    """One that is over, or was never begun, leaves nothing; where saves end rollouts, none is in a checkpoint."""
    folder, held, data, *_ = made
    assert {name.partition("/")[0] for role, name in Checkpoint(folder)._index if role == ROLE} == {
        f"{position:06d}" for position in range(4)
    }
    anew = Rollouts("restarted", share(4, 0, 1, 2), Window(3, 1))
    assert not [*anew.tensors()]
    first = rolled(anew, parts(data, anew.positions), held, (0, 1))
    assert not [*anew.tensors()] and anew._rollouts[0].frames == 3
    anew.load(Checkpoint(folder), CPU)
    anew.saved()
    assert torch.equal(rolled(anew, parts(data, anew.positions), held, (0, 1)), first)
    over = Rollouts("saved", share(4, 0, 1, 2), Window(3, 1))
    rolled(over, parts(data, over.positions), held, range(7))
    assert not [*over.tensors()]
    over.saved()
    assert over._rollouts[0].frames == 8


def test_other_methods_have_none():
    none, data = Rollouts(None, np.zeros((2, 1))), [batch(), batch()]
    assert none.join(data) == data and not [*none.tensors()]
    assert replace(data[0]).rollout is None


def test_a_window_of_one_chunk_keeps_its_place():
    """Its cache is empty between steps."""
    one = Rollout(6, torch.zeros(2, 4, 2, 4, 4), Cache(5, {}, Window(1)), {"text": torch.ones(2, 3)})
    again = rollout_of(tensors_by_name(one), Window(1))
    assert (again.frames, again.cache) == (one.frames, one.cache) and torch.equal(again.cond["text"], one.cond["text"])


def test_names_are_of_the_samples_first(made):
    *_, ranks = made
    assert all(
        len(tensor) == 2
        for held in ranks[0]._rollouts
        if held.x is not None
        for tensor in tensors_by_name(held).values()
    )
