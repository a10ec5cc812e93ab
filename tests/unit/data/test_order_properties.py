"""The data plan's promises, over seeds, worlds, resumes and buckets of all sizes."""

from itertools import pairwise

import numpy as np
import pytest

from ray_distill.data.feed.order import Plan, share, usable


def case(number):
    """Draw buckets of 1 to 40 rows, passes of 1 to 3, and a global batch that several worlds divide."""
    rng = np.random.default_rng(number)
    sizes = rng.integers(1, 40, rng.integers(1, 6))
    ends = np.cumsum(sizes)
    rows = rng.permutation(ends[-1])
    buckets = {
        (2, 1, 1, i): rows[end - size : end].tolist() for i, (size, end) in enumerate(zip(sizes, ends, strict=True))
    }
    passes = rng.choice([1.0, 1.5, 2.0, 3.0], ends[-1]).tolist() if number % 2 else [1.0] * int(ends[-1])
    return buckets, passes, int(rng.choice([4, 8, 12]))


def of(plan, epoch):
    return [plan[epoch * plan.steps_per_epoch + i] for i in range(plan.steps_per_epoch)]


@pytest.mark.parametrize("number", range(20))
def test_epochs_are_whole_and_their_batches_of_one_shape(number):
    buckets, passes, batch = case(number)
    plan = Plan(buckets, number, batch, passes)
    shape = {row: key for key, rows in buckets.items() for row in rows}
    epochs = [of(plan, epoch) for epoch in range(3)]
    for steps in epochs:
        assert all(len({shape[row] for row in step}) == 1 and len(step) == batch for step in steps)
        counts = np.bincount(np.concatenate(steps), minlength=len(shape))
        assert (counts >= np.floor(passes)).all()
        extra = {key: counts[rows].sum() - sum(passes[row] for row in rows) for key, rows in buckets.items()}
        # Above what passes ask for is no more than what fills a bucket's last batch, and a half of a row's rounding.
        assert all(-1.5 <= more < batch + 1.5 for more in extra.values())
    orders = [np.concatenate(steps).tolist() for steps in epochs]
    assert len(shape) < 4 or all(one != other for one, other in pairwise(orders))


@pytest.mark.parametrize("number", range(20))
def test_worlds_share_each_step_exactly_once_with_one_shape_on_all_ranks(number):
    buckets, passes, batch = case(number)
    plan = Plan(buckets, number, batch, passes)
    shape = {row: key for key, rows in buckets.items() for row in rows}
    for world in (1, 2, 4):
        positions = [share(batch, rank, world, 1).ravel() for rank in range(world)]
        assert sorted(np.concatenate(positions)) == list(range(batch))
        for step in range(2 * plan.steps_per_epoch):
            assert len({frozenset(shape[row] for row in plan[step][mine]) for mine in positions}) == 1


@pytest.mark.parametrize("number", range(20))
def test_one_integer_resumes_and_another_seed_is_another_order(number):
    buckets, passes, batch = case(number)
    whole = [Plan(buckets, number, batch, passes)[step].tolist() for step in range(40)]
    for start in (1, 7, 39):
        resumed = Plan(dict(reversed(buckets.items())), number, batch, passes)
        assert [resumed[step].tolist() for step in range(start, 40)] == whole[start:]
    other = Plan(buckets, number + 1, batch, passes)
    assert len(passes) < 4 or [other[step].tolist() for step in range(40)] != whole


@pytest.mark.parametrize("number", range(20))
def test_small_buckets_are_those_that_do_not_fill_a_batch(number):
    buckets, passes, batch = case(number)
    assert usable(buckets, passes, batch, keep_small=True) == buckets
    rows = {key: sum(passes[row] for row in those) for key, those in buckets.items()}
    wanted = {key for key, count in rows.items() if count >= batch}
    if wanted:
        assert set(usable(buckets, passes, batch, keep_small=False)) == wanted
    else:
        with pytest.raises(ValueError, match="keep_small_buckets = false"):
            usable(buckets, passes, batch, keep_small=False)
