import numpy as np
import pytest

from ray_distill.data.feed.order import Plan, epoch_batches, share

BUCKETS = {(4, 3, 2, 2): list(range(10)), (4, 3, 2, 4): list(range(10, 13)), (1, 1, 1, 1): []}


def test_a_step_is_a_pure_function():
    plan, steps = Plan(BUCKETS, 0, 4), range(12)
    forwards = [plan[step].tolist() for step in steps]
    backwards = [Plan(BUCKETS, 0, 4)[step].tolist() for step in reversed(steps)][::-1]
    assert forwards == backwards == [plan[step].tolist() for step in steps]
    assert forwards != [Plan(BUCKETS, 1, 4)[step].tolist() for step in steps]


def test_every_row_is_in_every_epoch():
    for epoch in range(5):
        batches = epoch_batches(BUCKETS, 0, epoch, 4)
        assert set(batches.flat) == set(range(13))
        assert batches.shape == (3 + 1, 4)  # 10 rows fill 3 batches, 3 rows fill 1


def test_a_batch_is_full_and_of_one_bucket():
    for batch in epoch_batches(BUCKETS, 0, 0, 4):
        assert set(batch) <= set(range(10)) or set(batch) <= {10, 11, 12}


def test_no_row_is_repeated_where_batches_come_out_even():
    batches = epoch_batches({"a": range(12)}, 0, 0, 4)
    assert sorted(batches.flat) == list(range(12))


def test_epochs_differ_and_plan_walks_through_them():
    plan = Plan(BUCKETS, 0, 4)
    epochs = [epoch_batches(BUCKETS, 0, epoch, 4).tolist() for epoch in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    assert [plan[step].tolist() for step in range(12)] == [batch for epoch in epochs for batch in epoch]


def test_the_order_of_buckets_does_not_matter():
    turned = dict(reversed(BUCKETS.items()))
    assert epoch_batches(turned, 0, 0, 4).tolist() == epoch_batches(BUCKETS, 0, 0, 4).tolist()


def test_the_order_is_shuffled():
    batches = epoch_batches({"a": range(400)}, 0, 0, 4)
    assert abs(np.corrcoef(batches.flatten(), np.arange(400))[0, 1]) < 0.2


def test_no_rows_is_an_error():
    with pytest.raises(ValueError, match="no rows"):
        Plan({(1, 1, 1, 1): []}, 0, 4)


@pytest.mark.parametrize("micro_batch", [1, 2, 4])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_shares_are_the_global_batch(world, micro_batch):
    shares = [share(16, rank, world, micro_batch) for rank in range(world)]
    assert {s.shape for s in shares} == {(16 // world // micro_batch, micro_batch)}
    assert np.concatenate([s.reshape(-1) for s in shares]).tolist() == list(range(16))


def test_a_global_batch_that_does_not_divide_is_an_error():
    with pytest.raises(ValueError):
        share(6, 0, 2, 2)


def test_passes_are_kept_in_each_epoch_and_their_parts_change():
    passes = [1.0] * 8 + [2.5] * 4
    epochs = [epoch_batches({"a": range(12)}, 0, epoch, 6, passes) for epoch in range(40)]
    counts = np.array([np.bincount(batches.flat, minlength=12) for batches in epochs])
    assert (counts[:, :8] == 1).all() and (counts[:, 8:].sum(axis=1) == 10).all()
    assert set(counts[:, 8:].flat) == {2, 3} and counts[:, 8:].mean(axis=0) == pytest.approx(2.5, abs=0.3)


def test_passes_mix_datasets_within_a_batch():
    batches = epoch_batches({"a": range(200)}, 0, 0, 20, [1.0] * 150 + [3.0] * 50)
    share = (batches >= 150).mean(axis=1)
    assert share.mean() == 0.5 and share.min() > 0 and share.max() < 1


def test_a_plan_with_passes_is_a_pure_function():
    passes = [1.5] * 10 + [1.0] * 3
    plans = [Plan(BUCKETS, 3, 4, passes) for _ in range(2)]
    assert [plans[0][s].tolist() for s in range(30)] == [plans[1][s].tolist() for s in reversed(range(30))][::-1]
    assert plans[0].steps_per_epoch == 4 + 1
