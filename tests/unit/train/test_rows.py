import pytest
import torch

from ray_distill.train.worker.rows import reduced

NAN = float("nan")


def test_a_row_is_over_the_global_batch():
    """Two ranks of two samples; what each name says decides how its four values become one number."""
    mine = {
        "loss": torch.tensor([1.0, 2.0]),
        "norm_min": torch.tensor([0.5, NAN]),
        "norm_median": torch.tensor([1.0, 2.0]),
        "nonfinite_count": torch.tensor([1.0, 0.0]),
        "by_sigma/0.0-0.2": torch.tensor([NAN, 4.0]),
        "by_sigma/0.2-0.4": torch.tensor([NAN, NAN]),
        "lr": torch.tensor([0.1]),
        "bytes/student": torch.tensor([3.0]),
    }
    other = [3.0, 6.0, 0.25, 7.0, 9.0, 3.0, 1.0, 1.0, NAN, NAN, NAN, NAN, 0.1, 5.0]
    (row,) = reduced([(4, mine)], torch.stack([torch.cat(list(mine.values())), torch.tensor(other)]))
    assert row == pytest.approx(
        {
            "step": 4,
            "loss": 3.0,
            "norm_min": 0.25,
            "norm_median": 2.0,
            "nonfinite_count": 3.0,
            "by_sigma/0.0-0.2": 4.0,
            "lr": 0.1,
            "bytes/student": 5.0,
        }
    )


def test_rows_of_several_steps_keep_apart():
    logs = [(0, {"a": torch.tensor([1.0])}), (1, {"a": torch.tensor([2.0, 4.0]), "b": torch.tensor([5.0])})]
    values = torch.tensor([[1.0, 2.0, 4.0, 5.0]])
    assert reduced(logs, values) == [{"step": 0.0, "a": 1.0}, {"step": 1.0, "a": 3.0, "b": 5.0}]


def test_a_broken_loss_is_not_averaged_away():
    (row,) = reduced([(0, {"loss": torch.tensor([1.0, NAN])})], torch.tensor([[1.0, NAN]]))
    assert row["loss"] != row["loss"]
