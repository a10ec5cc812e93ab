"""A search by any number of samples, or by a weighted sum of some, under constraints."""

import math
import re
from pathlib import Path

import pytest

from ray_distill.config.measures import Bounds
from ray_distill.tune.objective import BEHIND, Objective

ROW = {"step": 4, "frechet": 20.0, "accuracy": 0.9, "motion_ratio": 0.9}
TABLE = (Path(__file__).parents[3] / "docs/sweeps.md").read_text()
ROW_OF_TABLE = re.compile(r"^\| ([\d.]+), (\d) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) ", re.M)
MOVES = {"motion_ratio": Bounds(at_least=0.95)}


def test_a_weighted_sum():
    assert Objective({"frechet": 1.0}, {}).score(ROW) == 20.0
    assert Objective({"frechet": 0.5, "accuracy": -10.0}, {}).score(ROW) == pytest.approx(1.0)
    assert (Objective({"frechet": 1.0}, {}).label, Objective({"frechet": 2.0}, {}).label) == ("FD", "objective")


def test_a_trial_that_breaks_a_constraint_is_behind_every_one_that_keeps_them_and_the_nearer_one_is_before():
    aim = Objective({"frechet": 1.0}, MOVES)
    rows = [ROW | {"motion_ratio": m, "frechet": f} for m, f in ((0.95, 900.0), (0.96, 30.0), (0.94, 1.0), (0.5, 0.1))]
    assert sorted(rows, key=aim.score) == [rows[1], rows[0], rows[2], rows[3]]
    assert aim.score(rows[2]) == pytest.approx(BEHIND + 0.01, rel=1e-12)
    assert (
        aim.broken(rows[2]) == ["motion_ratio 0.940, and the constraint is at least 0.95"] and aim.broken(rows[0]) == []
    )


def test_measured_settings_change_their_order_under_a_bound_on_motion():
    """The table of docs/sweeps.md: the least distance, and the least that keeps the motion of fast parts."""
    rows = [
        {"guidance": float(scale), "shift": float(shift), "step": 0, "frechet": float(f), "motion_ratio": float(m),
         "motion_top_ratio": float(top)}
        for scale, shift, f, m, top in ROW_OF_TABLE.findall(TABLE)
    ]  # fmt: skip
    best = {
        name: min(rows, key=Objective({"frechet": 1.0}, bounds).score)
        for name, bounds in {
            "none": {},
            "mean": {"motion_ratio": Bounds(at_least=0.95)},
            "top": {"motion_top_ratio": Bounds(at_least=0.95)},
        }.items()
    }
    assert len(rows) == 9 and best["none"] is best["mean"]
    assert (best["none"]["guidance"], best["none"]["shift"]) == (1.5, 1.0)
    assert (best["top"]["guidance"], best["top"]["shift"]) == (2.0, 1.0)
    assert sorted(row["frechet"] for row in rows).index(best["top"]["frechet"]) == 6


def test_bounds():
    both = Bounds(at_least=0.95, at_most=1.05)
    assert [round(both.excess(value), 3) for value in (0.9, 0.95, 1.0, 1.1)] == [0.05, 0.0, 0.0, 0.05]
    assert str(both) == "at least 0.95 and at most 1.05"
    for wrong in ({}, {"at_least": 2.0, "at_most": 1.0}):
        with pytest.raises(ValueError, match=r"a bound needs|is above"):
            Bounds(**wrong)


def test_what_is_not_finite_or_not_measured():
    assert math.isnan(Objective({"frechet": 1.0}, MOVES).score(ROW | {"frechet": math.nan, "motion_ratio": 1.0}))
    with pytest.raises(ValueError, match="saturation_ratio was not measured at step 4"):
        Objective({"saturation_ratio": -1.0}, {}).score(ROW)
