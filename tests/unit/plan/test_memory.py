"""Bytes against numbers worked out by hand: 1000 elements in tensors of 600 and 400."""

import pytest

from ray_distill.config import RoleConfig
from ray_distill.config.roles import Optimizer
from ray_distill.plan.memory import BUCKET, Moment, start, state, update
from ray_distill.plan.network import Parameters

FULL = Parameters((600, 400), (600, 400))
ADAMW = Optimizer(learning_rate=1e-4)


def held(zero, dtype="bfloat16", ema=None, parameters=FULL, ranks=4):
    return state(RoleConfig(zero=zero, dtype=dtype, optimizer=ADAMW, ema_decay=ema), parameters, ranks)


@pytest.mark.parametrize(
    ("zero", "dtype", "weights", "gradients"),
    [
        (1, "bfloat16", 2000, 2000 + 4000),
        (2, "bfloat16", 2000, 1000),
        (3, "bfloat16", 500, 1000),
        (1, "float32", 4000, 4000),
        (2, "float32", 4000, 1000),
        (3, "float32", 1000, 1000),
    ],
)
def test_a_trained_role_on_four_ranks(zero, dtype, weights, gradients):
    found = held(zero, dtype, ema=0.9)
    assert (found.weights, found.gradients) == (weights, gradients)
    assert (found.masters, found.moments, found.ema) == (1000, 2000, 1000)
    assert found.bucket == 1000 * (2 + 4 * (zero == 1) if dtype == "bfloat16" else 4)


def test_bf16_gradients_of_stage_1_have_a_lasting_fp32_sum_unless_they_add_up_in_bf16():
    role = RoleConfig(zero=1, dtype="bfloat16", optimizer=ADAMW)
    rough = state(role.model_copy(update={"gradient_dtype": "bfloat16"}), FULL, 4)
    assert (rough.gradients, rough.bucket, rough.lasting) == (2000, 2000, (False, False))
    states = {"student": state(role, FULL, 4), "fake_score": rough}
    busy, _ = update(states, "fake_score", "fake_score", {})
    assert busy.rows["student"] == (2000, 6000, 3000, 0, 0, 0)  # its bucket is of its own updates


def test_zero3_rounds_up_each_tensor_and_zero2_the_sum():
    seven = Parameters((3, 4), (3, 4))
    assert held(3, "float32", parameters=seven, ranks=2).masters == (2 + 2) * 4
    assert held(3, "float32", parameters=seven, ranks=4).masters == (1 + 1) * 4
    assert held(2, "float32", parameters=Parameters((3, 3, 3), (3, 3, 3)), ranks=2).masters == 5 * 4


def test_a_frozen_role_has_weights_only():
    found = state(RoleConfig(zero=3, dtype="bfloat16"), Parameters((600, 400), ()), 4)
    assert (found.weights, found.start) == (500, 500 + 1200)
    assert (found.gradients, found.masters, found.moments, found.ema, found.bucket) == (0, 0, 0, 0, 0)


def test_int8_weights_are_a_byte_each():
    found = state(RoleConfig(zero=0, dtype="bfloat16", base_precision="int8"), Parameters((600, 400), (), int8=600), 4)
    assert found.weights == found.start == 600 + 2 * 400


def test_only_what_is_trained_has_a_state():
    found = held(2, parameters=Parameters((600, 400, 8), (8,)))
    assert (found.weights, found.gradients, found.masters, found.moments) == (2016, 8, 8, 16)


def test_an_average_role_is_a_frozen_network_and_a_shard_in_fp32():
    found = state(RoleConfig(zero=2, dtype="bfloat16"), Parameters((600, 400), (), (600, 400)), 4)
    assert (found.weights, found.ema, found.masters, found.gradients, found.bucket) == (2000, 1000, 0, 0, 0)
    assert state(RoleConfig(zero=3), Parameters((3, 4), (), (3, 4)), 4).ema == (1 + 1) * 4
    assert state(RoleConfig(zero=0), Parameters((3, 4), (), (3, 4)), 4).ema == 7 * 4


def test_without_shards_all_is_whole_and_the_weights_are_the_masters():
    found = held(0, "float32", ranks=4, parameters=Parameters((600, 400), (600,)), ema=0.9)
    assert (found.weights, found.gradients, found.masters, found.moments, found.ema) == (4000, 2400, 0, 4800, 2400)


def test_without_an_average():
    assert held(2).ema == 0


def test_gradients_of_stages_1_and_2_last_for_their_own_update():
    states = {"student": held(2), "fake_score": held(3)}
    busy, descent = update(states, "student", "student", {"student": 70})
    column = {role: row[1] for role, row in busy.rows.items()}
    assert column == {"student": 1000, "fake_score": 1000}
    assert busy.rows["student"] == (2000, 1000, 3000, 0, 70, 2000)
    assert descent.rows["student"] == (2000, 1000, 3000, 0, 0, 2 * 1000)
    (other, _) = update(states, "fake_score", "fake_score", {})
    assert other.rows["student"] == (2000, 0, 3000, 0, 0, 0)
    assert other.rows["fake_score"] == (500, 1000, 3000, 0, 0, 2000 + 2000)  # the weights gathered, once


def test_a_role_under_zero3_is_set_up_in_shards_tensor_by_tensor():
    states = {"student": held(3), "teacher": state(RoleConfig(zero=3), Parameters((600, 400), ()), 4)}
    first, second = start(states)
    assert first.total == 500 + 1200  # the largest of the tensors whole
    assert second.total == 500 + 1000 + 1000 + 2000 + 1000 + 2400
    whole = state(RoleConfig(zero=0), Parameters((600, 400), ()), 4)
    assert [moment.total for moment in start({"teacher": whole})] == [4000]
    assert Moment("", {"a": (1, 2, 3, 4, 5, 6), "b": (1, 1, 1, 1, 1, 1)}).term("EMA") == 5


def test_the_bucket_is_deepspeeds_own_at_most():
    assert held(2, parameters=Parameters((BUCKET, BUCKET), (BUCKET, BUCKET))).bucket == 2 * BUCKET


@pytest.mark.parametrize(("zero", "gradients"), [(1, 6000), (2, 0), (3, 0)])
def test_an_offloaded_optimizer_is_in_cpu_memory(zero, gradients):
    role = RoleConfig(zero=zero, dtype="bfloat16", optimizer=ADAMW, ema_decay=0.9, offload_optimizer=True)
    found = state(role, FULL, 4)
    assert (found.masters, found.moments, found.ema, found.descent, found.gradients) == (0, 0, 0, 0, gradients)
    assert found.weights == (500 if zero == 3 else 2000)
    assert found.host == 1000 + 2000 + 1000 + 2000 + (1000 if zero > 1 else 0)


def test_offloaded_parameters_are_in_cpu_memory():
    found = state(RoleConfig(zero=3, dtype="bfloat16", offload_parameters=True), Parameters((600, 400), ()), 4)
    assert (found.weights, found.host, found.start, found.gathered) == (0, 500, 1200, 2000)
