"""YAML as a tree of plain values: text as it stands, one key once, bounded time and memory."""

from pathlib import Path

import pytest

from ray_distill.config import ConfigError, RunConfig, load_config
from ray_distill.config.kinds import Kinds
from ray_distill.config.tree import override, parse
from tests.unit.toys import settings

ANY = Kinds()
RUN = Kinds.of(RunConfig)


def at(key):
    return RUN.at(key.split("."))


@pytest.mark.parametrize(
    ("key", "text", "path", "null"),
    [
        ("name", True, False, False),
        ("output_dir", True, True, False),
        ("data.manifest", True, True, True),
        ("data.datasets.0.caption", True, False, True),
        ("data.datasets.0.captions", False, False, False),  # a choice of names
        ("evaluate.prompts.kite", True, False, False),
        ("evaluate.metric", True, True, True),
        ("train.resume_from", True, True, False),
        ("train.steps", False, False, False),
        ("roles.student.lora.targets.1", True, False, False),
        ("method.rollout", False, False, False),
        ("no.such.key", False, False, False),
    ],
)
def test_the_schema_says_which_keys_are_text(key, text, path, null):
    kinds = at(key)
    assert (kinds.text, kinds.path, kinds.null) == (text, path, null)


@pytest.mark.parametrize(
    "text",
    ["worst quality #1 bad", "no", "2026", "blurry: bad", "[a", "1e5", "0x10", "2026-11-27", "*", "a 'b' c", "%"],
)
def test_text_keys_take_text_as_it_stands(text):
    assert override(text, at("data.negative_prompt")) == text
    assert override(text, at("model.path")) == text


def test_quotes_around_a_text_are_not_of_it():
    assert override("' a # b '", at("data.negative_prompt")) == " a # b "
    assert override('"a"', at("name")) == "a"
    assert override('"a" and "b"', at("data.negative_prompt")) == '"a" and "b"'
    assert override("''", at("track.uri")) == ""
    assert override("'null'", at("data.negative_prompt")) == "null"


def test_nothing_is_the_empty_text_and_null_where_null_may_stand():
    assert override("", at("track.uri")) == "" and override(" ", at("data.negative_prompt")) == ""
    assert override("", at("evaluate.metric")) is None and override("null", at("publish")) is None
    assert override("null", at("track.uri")) is None  # which the schema refuses: is it the word, or nothing?
    assert override("~", at("output_dir")) == "~" and override("~", at("evaluate.metric")) is None


def test_text_in_a_file_is_text_without_quotes():
    tree = parse("name: 2026\ndata: {negative_prompt: no}\nevaluate: {prompts: {a: yes, 2: 1e3}}\nseed: 7", RUN)
    assert tree == {
        "name": "2026",
        "data": {"negative_prompt": "no"},
        "evaluate": {"prompts": {"a": "yes", "2": "1e3"}},
        "seed": 7,
    }
    assert parse("roles: {student: {lora: {targets: [no, 1]}}}", RUN)["roles"]["student"]["lora"]["targets"] == [
        "no",
        "1",
    ]
    assert parse("data: {negative_prompt: }\nname: 'a: b'", RUN) == {"data": {"negative_prompt": ""}, "name": "a: b"}


def test_numbers_as_people_write_them():
    assert parse("[1e3, 1.5e-5, -2E+1, 3]", ANY) == [1000.0, 1.5e-5, -20.0, 3]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("train: {steps: 1}\nseed: 0\ntrain: {steps: 2}", "'train' occurs on line 1 and again on line 3"),
        ("train:\n  steps: 1\n  workers: 1\n  steps: 2", "'steps' occurs on line 2 and again on line 4"),
        ("data: {datasets: [{repeats: 1, repeats: 2}]}", "'repeats' occurs on line 1 and again on line 1"),
        ('a: 1\n"a": 2', "'a' occurs on line 1 and again on line 2"),
        ("1: a\n1: b", "'1' occurs on line 1 and again on line 2"),
    ],
)
def test_a_key_twice_is_an_error_with_both_lines(text, lines):
    with pytest.raises(ConfigError, match=lines):
        parse(text, RUN)


def test_merged_mappings_may_be_overridden_and_used_again():
    text = "base: &base {a: 1, b: 2}\nx: &x {<<: *base, b: 3}\ny: *x\nz: {<<: [*x, *base], a: 4}"
    tree = parse(text, ANY)
    assert tree["x"] == tree["y"] == {"a": 1, "b": 3} and tree["z"] == {"a": 4, "b": 3}


def test_a_merge_of_a_merge_keeps_what_is_overridden_on_the_way():
    """PyYAML 6.0.4 itself gives z the base's b."""
    text = "base: &base {a: 1, b: 2}\nx: &x {<<: *base, b: 3}\nz: {<<: *x}\nw: {c: 4, <<: [{b: 5}, *x]}"
    tree = parse(text, ANY)
    assert tree["z"] == {"a": 1, "b": 3} and tree["w"] == {"a": 1, "b": 5, "c": 4}


@pytest.mark.parametrize("merged", ["1", "[{a: 1}, 2]", "[[{a: 1}]]"])
def test_what_is_no_mapping_is_not_merged(merged):
    with pytest.raises(ConfigError, match="<< takes a mapping or a list of mappings"):
        parse(f"x: {{<<: {merged}}}", ANY)


def test_aliases_are_counted_and_not_expanded():
    text = "a: &a [1, 1, 1]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]"
    assert len(parse(text, ANY, nodes=70)["c"]) == 3
    with pytest.raises(ConfigError, match="more than 50 values, with those of aliases"):
        parse(text, ANY, nodes=50)
    merged = "a: &a {x: 1}\nb: &b {<<: [*a, *a, *a]}\nc: {<<: [*b, *b, *b]}"
    assert parse(merged, ANY, nodes=80)["c"] == {"x": 1}
    with pytest.raises(ConfigError, match="more than 30 values"):
        parse(merged, ANY, nodes=30)


@pytest.mark.parametrize("text", ["&r\nname: x\nmodel: *r", "a: &a [*a]", "a: &a {b: {c: *a}}"])
def test_an_alias_of_itself_is_named(text):
    with pytest.raises(ConfigError, match=r"line \d: an alias inside its own anchor"):
        parse(text, ANY)


def test_levels_are_counted_before_they_are_read():
    assert parse("[[[1]]]", ANY, depth=3) == [[[1]]]
    for text in ("[[[[1]]]]", "{a: [{b: [1]}]}", "[[[["):
        with pytest.raises(ConfigError, match="more than 3 nested levels"):
            parse(text, ANY, depth=3)


@pytest.mark.parametrize(
    "text",
    ["a: [", "a: !!set {x}", "a: !!python/name:os.system", "? [a]\n: 1", "a: 2026-99-99", "--- 1\n--- 2", "a: @"],
)
def test_what_is_no_plain_tree_is_refused(text):
    with pytest.raises(ConfigError):
        parse(text, ANY)


def test_a_home_is_expanded_wherever_a_path_stands(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    home = tmp_path / "home"
    home.mkdir()
    (home / "prompts.txt").write_text("a cat\n")
    path = tmp_path / "run.yaml"
    tree = settings(tmp_path)
    path.write_text(repr(tree))
    keys = {
        "output_dir": "o",
        "model.path": "m",
        "data.manifest": "x.jsonl",
        "data.cache_dir": "c",
        "evaluate.metric": "e",
    }
    given = [f"{key}=~/{name}" for key, name in keys.items()]
    config = load_config(path, [*given, "evaluate.prompts=~/prompts.txt", "track.uri=sqlite:///~/ml.db"], {}).config
    found = (config.output_dir, config.model.path, config.data.manifest, config.data.cache_dir, config.evaluate.metric)
    assert found == tuple(home / name for name in keys.values())
    assert config.evaluate.prompts == {"prompt_1": "a cat"} and config.track.uri == f"sqlite:///{home}/ml.db"
    with pytest.raises(ConfigError, match="~nobody_here is no user's home"):
        load_config(path, ["output_dir=~nobody_here/x"], {})
    assert load_config(path, ["output_dir=."], {}).config.output_dir == Path.cwd()


def test_a_file_that_is_no_utf_8_is_named(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_bytes("# café\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"run\.yaml: not UTF-8 \(byte 0xe9\)"):
        load_config(path, environment={})
