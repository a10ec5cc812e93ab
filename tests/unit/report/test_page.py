"""The page of a run: all that the run left, as text, without an address of another machine, however the run ended."""

import base64
import hashlib
import json
import re
import shlex
from types import SimpleNamespace

import pytest
import yaml
from jinja2 import Environment, FileSystemLoader

from ray_distill.cli import main
from ray_distill.errors import ConfigError
from ray_distill.jsonl import append_rows
from ray_distill.report import page as module
from ray_distill.report.journal import FILE, Journal, read
from ray_distill.report.media import Room
from ray_distill.report.page import arguments, sampled, write_page
from ray_distill.report.run import Run
from tests.unit.report.runs import PROMPT_TEXTS, REPORT, Page, clips, rows, start, whole


def page_of(run, room=None):
    return Page(write_page(run, room).read_text())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return whole(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def text(run):
    return write_page(run).read_text()


def test_it_shows_numbers_with_intervals_and_the_student_beside_chance(text):
    page = Page(text)
    assert "trained to its last step, 8" in page.text
    assert "The student misses a goal: its motion_ratio is 0.912" in page.text
    one_line = Page(text).line
    assert "motion ratio 0.912 0.871 to 0.954 0.993 to 1.008 less than the teacher" in one_line
    assert "moving difference 0.000 -0.100 to 0.100 - no difference seen" in one_line
    assert "video_kid distance of 40 videos 0.0125 0.00800 to 0.0170 -0.000400 farther than chance" in one_line
    assert "FD - - 20.6" in one_line and "nfe 64 3 3" in one_line and "accuracy - " not in one_line
    assert "saturation: the teacher's value is almost 0 (0.00200), so a ratio means nothing" in one_line


def test_it_says_where_each_value_came_from_what_was_planned_and_how_to_load_the_student(text):
    one_line = Page(text).line
    assert "train.steps 8 command line" in one_line and "seed 0 $RAY_DISTILL_SEED" in one_line
    assert "train.micro_batch 2 default" in one_line
    assert "memory of a worker, GiB 1.00 0.750" in one_line and "student updates 4 4" in one_line
    assert "seconds a step - 1.25 5.00 TFLOP of a worker in a step, so 4.00 TFLOP/s" in one_line
    assert "Timesteps 1000, 757" in one_line and "tags: []" not in one_line
    assert "ray-distill sample run.yaml seed=0 train.steps=8 --prompt" in one_line
    assert "motion, student to teacher 0.800 no goal is set 8" in one_line
    assert "left out: is too short 1" in one_line and "clips of 3x3x6x6 (C x t x h x w) 5" in one_line


def test_its_commands_are_those_of_the_run_for_a_shell(tmp_path):
    config = [
        ["name", "first_try", "command line"],
        ["data.negative_prompt", "blur: a: b,\u2028c", "command line"],
        ["data.manifest", "/a b/c.jsonl", "$RAY_DISTILL_DATA__MANIFEST"],
        ["method.timesteps", [1000.0, 500.0], "command line"],
        ["track.uri", "http://u:***@host", "command line"],
        ["evaluate.metric", None, "command line"],
        ["seed", 3, "my run.yaml"],
        ["train.steps", 8, "default"],
    ]
    given = shlex.split(arguments(SimpleNamespace(config=config)))
    assert given[0] == "my run.yaml" and [word.partition("=")[0] for word in given[1:]] == [
        *("name", "data.negative_prompt", "data.manifest", "method.timesteps", "evaluate.metric")
    ]
    for word, value in zip(
        given[1:], ["first_try", "blur: a: b,\u2028c", "/a b/c.jsonl", [1000, 500], None], strict=True
    ):
        assert yaml.safe_load(word.partition("=")[2]) == value


def test_it_holds_each_video_as_it_is_by_prompt_and_by_checkpoint(run, text):
    page = Page(text)
    embedded = [base64.b64decode(a.partition(",")[2]) for a in page.addresses if a.startswith("data:video/mp4;base64,")]
    paths = [
        run / folder / f"{number:02d}_p.mp4"
        for folders in (
            ("videos/teacher_many", "videos/student_before", "videos/student"),
            ("validation_videos/step_000004", "validation_videos/step_000008"),
        )
        for number in range(2)
        for folder in folders
    ]
    assert embedded == [path.read_bytes() for path in paths]
    assert text.count("data-strip") == 4 + page.scripts.count("data-strip")
    assert "step 4" in page.text and "step 8" in page.text


def test_no_address_leaves_the_page_and_the_page_forbids_itself_any(text):
    page = Page(text)
    assert page.addresses and all(address.startswith("data:") for address in page.addresses)
    assert "url(" not in page.styles and "@import" not in page.styles
    assert not set(page.tags) & {"link"} or page.addresses.count("data:,") == page.tags.count("link")
    assert not set(page.tags) & {"iframe", "object", "embed", "base", "form"}
    assert not re.search(r"fetch|XMLHttp|import\(|WebSocket|sendBeacon|https?:", page.scripts)
    digest = base64.b64encode(hashlib.sha256(page.scripts.encode()).digest()).decode()
    assert "default-src 'none'" in page.policy and f"script-src 'sha256-{digest}'" in page.policy
    assert page.policy.count("data:") == 2 and "http" not in page.policy


def test_markup_in_a_prompt_a_warning_and_a_key_is_text(tmp_path):
    run = whole(tmp_path, evaluate__prompts={"<i>x</i>": "<img src=http://h/x>"})
    Journal(run).add("end", status="FAILED", error="<script>alert(2)</script>")
    page = page_of(run)
    assert PROMPT_TEXTS[1] in page.text and "<script>alert(2)</script>" in page.text
    assert "evaluate.prompts.<i>x</i>" in page.text and "<img src=http://h/x>" in page.text
    assert page.tags.count("script") == 1 and "alert" not in page.scripts and "i" not in page.tags


def test_a_page_without_escaping_is_seen(run, monkeypatch):
    monkeypatch.setattr(module, "_environment", lambda: Environment(loader=FileSystemLoader(module.HERE)))
    planted = write_page(run, out=run / "planted.html").read_text()
    page = Page(planted)
    assert page.tags.count("script") > 1 and PROMPT_TEXTS[1] not in page.text


def test_no_secret_is_shown(tmp_path, monkeypatch):
    token = "hf_" + "a1B2c3D4" * 4
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "pl4nted-word")
    run = start(tmp_path, track__uri="http://ann:s3cret-word@127.0.0.1:9", warnings=[f"token={token}"])
    clips(run / "videos/student", 9, ["say pl4nted-word", token])
    Journal(run).add("end", status="FAILED", error="HTTP 401 for http://bob:other-word@host/")
    shown, kept = write_page(run).read_text(), (run / "journal.jsonl").read_text()
    for secret in (token, "s3cret-word", "other-word"):
        assert secret not in shown and secret not in kept
    assert "pl4nted-word" not in shown and "say ***" in shown


def test_whole_rows_are_left_out_beyond_the_limit_and_named(run):
    sizes = [path.stat().st_size for path in sorted(run.glob("videos/*/00_p.mp4"))]
    page = page_of(run, Room(sum(sizes)))
    assert page.tags.count("video") == 3
    assert "7 of 10 videos are left out" in page.text and "(ray-distill report --limit MIB)" in page.text
    assert str(run / "videos/student") in page.text and str(run / "validation_videos/step_000008") in page.text
    assert page_of(run, Room(0)).tags.count("video") == 0


def test_what_a_preflight_saw_is_on_the_page(tmp_path):
    run = start(tmp_path)
    seen = {"lines": ["teacher: 32 Euler steps"], "warnings": ["the teacher is static"], "errors": ["<b>no</b>"]}
    (run / "preflight").mkdir()
    (run / "preflight/preflight.json").write_text(json.dumps(seen))
    assert "Preflight <b>no</b> warning: the teacher is static teacher: 32 Euler steps" in page_of(run).line


# Runs that ended early, and runs that lack a part


def test_a_run_that_was_stopped_says_where_and_why(tmp_path):
    run = start(tmp_path, warnings=["a setting without effect"])
    rows(run, 3)
    Journal(run).add("end", status="KILLED", error="stopped at step 3, which is saved")
    page = page_of(run)
    assert "ended early, at step 3 of 8; not evaluated: stopped at step 3, which is saved" in page.text
    assert "a setting without effect" in page.text and "Nothing is exported yet" in page.text
    assert page.tags.count("img") == 1 and "video" not in page.tags  # the curves of three steps


def test_a_run_that_was_killed_or_is_at_work_has_no_end(tmp_path):
    run = start(tmp_path)
    assert "at step 0 of 8; not evaluated; it has not ended: it is at work, or was killed" in page_of(run).text
    Journal(run).add("end", status="KILLED", error="stopped")
    rows(run, 5)
    append_rows(run / FILE, [read(run)[0] | {"step": 4}])
    page = page_of(run)
    assert "it has not ended" in page.text and "start number 2, from step 4" in page.text


def test_a_run_without_metric_or_teacher_has_its_own_numbers(tmp_path):
    report = {"student": {"motion": 0.3, "nfe": 64, "frechet": None}, "ratios": None, "steps": 8, "missed": []}
    run = start(tmp_path, method={"name": "flow_matching"}, roles={"student": {"optimizer": {"learning_rate": 1e-4}}})
    rows(run)
    clips(run / "videos/student", 30)
    (run / "report.json").write_text(json.dumps(report))
    page = page_of(run)
    assert "against its teacher" not in page.text and "No warning was given" in page.text
    assert page.tags.count("video") == 2 and "motion 0.300 nfe 64" in page.line and "FD -" not in page.line


def test_a_run_of_before_there_was_a_journal_has_a_page(tmp_path):
    run = tmp_path / "old"
    run.mkdir()
    rows(run, 8)
    (run / "report.json").write_text(json.dumps(REPORT))
    page = page_of(run)
    assert "trained to its last step, 8" in page.text and "less than the teacher" in page.text
    assert "ray-distill export CONFIG" in page.text


def test_a_folder_without_a_run_is_refused(tmp_path, capsys):
    with pytest.raises(ConfigError, match="this is no folder of a run"):
        write_page(tmp_path)
    assert main(["report", str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_reading_mends_nothing_that_a_run_at_work_may_be_writing(tmp_path):
    run = start(tmp_path)
    rows(run, 4)
    torn = (run / "metrics.jsonl").read_bytes() + b'{"step": 4, "dmd_lo'
    (run / "metrics.jsonl").write_bytes(torn)
    (run / "report.json").write_text('{"student": {')
    read = Run.read(run)
    assert len(read.rows) == 4 and read.report == {}
    assert (run / "metrics.jsonl").read_bytes() == torn and (run / "report.json").read_text() == '{"student": {'


def test_a_warning_of_the_rows_has_its_remedy(tmp_path):
    run = start(tmp_path)
    for first in range(3):
        rows(run, 50, fake_score_over_floor=1.0 + first)
    (warning,) = Run.read(run).warnings
    page = page_of(run)
    assert "lags behind the student" in warning and "student_interval" in page.text
    assert "as a share of a Gaussian's 3.00 above 1.00 and it grows over three windows 49" in page.line


def test_a_card_and_rows_that_cannot_be_read_do_not_end_a_page(tmp_path):
    run = start(tmp_path)
    rows(run, 4, dmd_loss="lost", fake_score_loss=None)
    (run / "export").mkdir()
    (run / "export/README.md").write_bytes(b"# a student \xff")
    assert "a student \ufffd" in page_of(run).line


def test_checkpoints_over_time_are_the_first_the_last_and_some_between(tmp_path):
    for step in range(0, 2000, 100):
        (tmp_path / "validation_videos" / f"step_{step:06d}").mkdir(parents=True)
    assert list(sampled(tmp_path)) == ["step 0", "step 400", "step 800", "step 1100", "step 1500", "step 1900"]
    (tmp_path / "validation_videos" / "step_x").mkdir()
    assert len(sampled(tmp_path)) == 6 and sampled(tmp_path / "none") == {}


def test_the_command_writes_the_page_where_it_is_asked_to(run, tmp_path, capsys):
    out = tmp_path / "there" / "page.html"
    assert main(["report", str(run), "--limit", "0", "-o", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out) and "<video" not in out.read_text()
