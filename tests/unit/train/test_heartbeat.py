"""Who is waited for, and who failed: what the board says of its ranks."""

import time

from ray_distill.train.wire.board import Board
from ray_distill.train.wire.heartbeat import Place, Pulse, failed, stuck


def test_a_hang_names_who_is_waited_for_and_where_all_are() -> None:
    ahead, behind = Place(8, 3, "backward", "student"), Place(7, 3, "forward", "student")
    said = stuck({0: ahead, 1: behind, 2: ahead}, {0: "reduce, a.py:5", 1: "sleep, b.py:1", 2: "reduce, a.py:5"}, 30.2)
    assert said == (
        "no rank has moved for 30 s, waiting for rank 1 (train.hang_timeout_s). "
        "rank 1: step 3, forward of student (sleep, b.py:1); ranks 0, 2: step 3, backward of student (reduce, a.py:5)"
    )
    same = stuck({0: Place(), 1: Place()}, {0: "read, a.py:2", 1: "wait, b.py:4"}, 9)
    assert same.endswith("for 9 s (train.hang_timeout_s). rank 0: start (read, a.py:2); rank 1: start (wait, b.py:4)")


def test_a_group_is_given_up_only_when_no_rank_moves() -> None:
    board = Board(hang_timeout_s=0.2)
    for marks in range(4):  # rank 1 stands still for longer than the limit, and rank 0 does not
        assert not board.beat(0, Place(marks), "") and not board.beat(1, Place(), "")
        time.sleep(0.1)
    time.sleep(0.15)
    assert board.beat(0, Place(3), "") and board.beat(1, Place(), "")
    assert "waiting for rank 1" in board.cause() and board.cause() in board.pull()[1]
    board.resume_from(None)  # the next group
    assert not board.beat(1, Place(), "") and board.cause() == ""


def test_rows_of_before_a_rollback_are_dropped_from_its_step_on() -> None:
    board = Board(hang_timeout_s=60)
    board.resume_from(None)
    board.push([{"step": 18}])
    assert board.pull() == ([{"step": 18}], [], None)
    board.push([{"step": step} for step in (19, 20, 21)])
    board.resume_from("step_00000020", 20)  # a group that restarts after a killed worker repeats the same steps
    assert board.pull()[::2] == ([{"step": step} for step in (19, 20, 21)], None)
    board.push([{"step": step} for step in (20, 22, 19)])
    board.roll_back("not finite")
    board.resume_from("step_00000020", 20)
    assert board.pull()[::2] == ([{"step": 19}], 20) and board.pull()[::2] == ([], None)
    board.resume_from("step_00000020", 20)
    assert board.pull()[2] is None


def test_rows_that_would_be_lost_with_the_driver() -> None:
    """A checkpoint keeps those of its steps that the driver has not pulled, or has pulled and not yet written."""
    board = Board(hang_timeout_s=60)
    board.push([{"step": 0}, {"step": 1}])
    assert board.unwritten(2) == [{"step": 0}, {"step": 1}] and board.unwritten(1) == [{"step": 0}]
    board.pull()
    board.push([{"step": 2}])
    assert board.unwritten(3) == [{"step": 0}, {"step": 1}, {"step": 2}]
    assert board.pull(written=False)[0] == [{"step": 2}]  # the disk refused the first two
    assert board.unwritten(3) == [{"step": 0}, {"step": 1}, {"step": 2}]
    board.resume_from("step_00000002", 2)
    board.push([{"step": 2}, {"step": 3}])  # from the group after workers that died
    assert board.unwritten(9) == [{"step": 0}, {"step": 1}, {"step": 2}, {"step": 3}]
    assert board.pull()[0] == [{"step": 2}, {"step": 3}] and board.pull()[0] == [] == board.unwritten(9)
    board.push([{"step": 4}])
    board.pull()
    board.push([{"step": 5}])
    board.roll_back("not finite")
    board.resume_from("step_00000004", 4)
    assert board.unwritten(9) == []


def test_a_rank_that_fails_says_so_with_its_own_traceback() -> None:
    board = Board(hang_timeout_s=60)
    board.fail(1, Place(5, 2, "step", "student"), "Traceback ...\n  in descend\nValueError: planted\n")
    board.fail(0, Place(5, 2, "step", "student"), "Traceback ...\nRuntimeError: closed by peer\n")
    assert board.pull()[1] == ["rank 1 failed at step 2, step of student: ValueError: planted"]
    assert "in descend" in board.cause() and board.cause().endswith("rank 0 failed after it")
    assert "after" not in failed({1: (Place(), "ValueError: planted")})


def test_a_mark_keeps_the_step_and_counts() -> None:
    pulse = Pulse(board=None, rank=0)
    pulse.at("data", step=7)
    pulse.at("forward", "student")
    assert pulse._line().startswith("_line, heartbeat.py:")
    assert pulse.place == Place(2, 7, "forward", "student")
