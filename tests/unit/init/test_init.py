"""`ray-distill init` writes a shipped recipe, apart from the lines that it names, and plans it as fitting."""

import re
import sys
from itertools import product
from pathlib import Path

import pytest
import yaml
from PIL import Image

from ray_distill.cli import main
from ray_distill.config import ConfigError, load_config
from ray_distill.config.keys import flatten
from ray_distill.init import answers as questions
from ray_distill.init.answers import BATCH, PRESETS, Answers, read_cluster, read_data
from ray_distill.init.choose import fitting, parse, text_encoder, with_answers
from ray_distill.init.edit import Edit, apply
from ray_distill.init.recipes import FOLDER, RECIPES, Recipe
from ray_distill.init.start import init
from ray_distill.models.spec import of_clips
from ray_distill.plan.estimate import estimate
from ray_distill.plan.hardware import GIB, parse_cluster
from ray_distill.plan.report import Assumed

ROOT = Path(__file__).parents[3]
GUIDE = ROOT / "docs/init.md"
NAMES = sorted(
    {name for tasks in RECIPES.values() for goals in tasks.values() for names in goals.values() for name in names}
)
WAN = {"family": "wan2.1", "gpus": "8xH100-80GB", "data": "prompts.txt"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch) -> Path:
    """A working directory with a file of prompts."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("a red kite over a beach\na train leaves a station\n")
    return tmp_path


def line(out: str, **flags: str) -> list[str]:
    return ["init", out, *(text for name, value in flags.items() for text in (f"--{name}", value))]


# Recipes and edits


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_a_shipped_file_with_its_download(name):
    recipe = Recipe(name)
    assert (FOLDER / f"{name}.yaml").resolve() == ROOT / "configs" / f"{name}.yaml"
    config = parse(recipe.body)
    assert config == load_config(ROOT / "configs" / f"{name}.yaml", (), {}).config
    assert re.fullmatch(rf"hf download \S+ --local-dir models/{config.model.path.name}", recipe.download)
    assert config.train.global_batch == BATCH


def test_each_task_has_recipes_of_its_kind():
    for family, task, goal in ((f, t, g) for f, tasks in RECIPES.items() for t in tasks for g in tasks[t]):
        for name in RECIPES[family][task][goal]:
            config = parse(Recipe(name).body)
            assert bool(of_clips(config.model.encoders.fields)) == (task == "i2v"), name
            assert (config.method.sampler().chunks is not None) == (goal == "stream"), name


TEXT = """\
name: run
model:
  path: a        # the teacher
roles:
  student:       # learns
    zero: 2
data:
  datasets:
    - {videos: clips}
    - prompts: b.txt
  # a comment
  frames: 81     # latents
  note: >-
    one
    two
train: {steps: 3}
"""


def test_edits_change_their_lines_alone():
    text = TEXT
    for edit in (
        Edit("name", "no", "why"),
        Edit("roles.student.zero", 3, "sharded"),
        Edit("roles.student.ema_decay", None, "none"),
        Edit("data.manifest", "x.jsonl", "yours", other="datasets"),
        Edit("data.note", "three", "short"),
        Edit("data.frames", 5, "x" * 120),
    ):
        text = apply(text, edit)
    assert text == (
        "name: 'no'  # init: why\n"
        "model:\n  path: a        # the teacher\n"
        "roles:\n  student:       # learns\n    ema_decay: null  # init: none\n    zero: 3  # init: sharded\n"
        "data:\n  manifest: x.jsonl  # init: yours\n"
        f"  # a comment\n  # init: {'x' * 120}\n  frames: 5\n"
        "  note: three  # init: short\n"
        "train: {steps: 3}\n"
    )
    assert yaml.safe_load(text)["name"] == "no"


@pytest.mark.parametrize("name", NAMES)
def test_the_answers_alone_differ_from_the_recipe(name):
    recipe, cluster = Recipe(name), parse_cluster("4xRTX4090-24GB")
    answers = Answers("", "", "", cluster, {"prompts": "prompts.txt"})
    config = parse(with_answers(recipe, answers, cluster, "first"))
    before, after = flatten(parse(recipe.body).dump()), flatten(config.dump())
    changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    encoders = {"model.text_encoder_precision", "data.encoder_gpus", "data.encoders"}
    places = {"name", "data.manifest", "data.datasets", "train.workers", *encoders}
    assert changed <= places
    assert (config.name, config.train.workers) == ("first", 4)
    assert [part.place for part in config.data.parts] == [Path("prompts.txt").absolute()]


@pytest.mark.parametrize(
    ("name", "gpus", "own", "values"),
    [
        ("wan2.1_1.3b/dmd", "1xH100-80GB", "float32", []),
        ("wan2.1_1.3b/dmd", "1xRTX4090-24GB", "float32", ["bfloat16"]),
        ("wan2.1_1.3b/dmd", "1xRTX4090-24GB", "bfloat16", []),
        ("ltx2/dmd_shared_base", "1xA100-40GB", "bfloat16", []),
        ("ltx2/dmd_shared_base", "1xRTX4090-24GB", "bfloat16", [0, 1]),  # on the CPU: Gemma is not read in int8
    ],
)
def test_the_text_encoder_fits_a_gpu(name, gpus, own, values):
    config = parse(Recipe(name).body)
    config = config.model_copy(update={"model": config.model.model_copy(update={"text_encoder_precision": own})})
    assert [edit.value for edit in text_encoder(config, parse_cluster(gpus))] == values


# Presets


def cell(family: str, task: str, goal: str, preset: str) -> str:
    """A cell of the table in docs/init.md; every choice is written, read again and planned as fitting."""
    cluster = parse_cluster(preset)
    choice = fitting(Answers(family, task, goal, cluster, {"prompts": "prompts.txt"}), cluster, "first")
    if choice is None:
        return "no"
    result, free = estimate(parse(choice.body)), Assumed().free(cluster)
    assert result.peak.total <= free and result.config.train.workers == cluster.gpus
    used = (result.peak.total - free) / GIB + cluster.gpu.memory
    changes = {re.split(r"[.:]", text.strip())[0] for text in choice.body.splitlines() if "# init: to fit" in text}
    name = choice.recipe.name.rpartition("/")[2]
    return " ".join([f"{name} {used:.1f}", *(f"+{change}" for change in sorted(changes))])


def rows() -> dict[tuple[str, str, str], list[str]]:
    """The table of docs/init.md: (family, task, goal) -> its cells."""
    lines = re.findall(r"^\| (wan[\d.]+|ltx2?) \| (\w+) \| (\w+) \| (.*) \|$", GUIDE.read_text(), re.M)
    return {(family, task, goal): cells.split(" | ") for family, task, goal, cells in lines}


ROWS = rows()


def test_the_table_has_wan_and_ltx():
    every = {(f, t, g) for f in ("wan2.1", "wan2.2", "ltx", "ltx2") for t in RECIPES[f] for g in RECIPES[f][t]}
    assert ROWS.keys() == every and {len(cells) for cells in ROWS.values()} == {len(PRESETS)}


QUICK = {("wan2.1", "t2v", "small", preset) for preset in PRESETS if preset != "4xRTX4090-24GB"}


@pytest.mark.parametrize("case", sorted(QUICK), ids=" ".join)
def test_a_preset_fits(case):
    *row, preset = case
    assert cell(*case) == ROWS[tuple(row)][PRESETS.index(preset)]


@pytest.mark.slow
@pytest.mark.parametrize("case", sorted({(*row, p) for row, p in product(ROWS, PRESETS)} - QUICK), ids=" ".join)
def test_every_other_preset_fits_or_is_refused(case):
    *row, preset = case
    assert cell(*case) == ROWS[tuple(row)][PRESETS.index(preset)]


CHECKED = {  # family, task, goal and GPUs without sequence parallelism, which a tiny network has too few heads for
    ("wan2.1", "t2v", "small", "1xRTX4090-24GB"): "2.1_t2v",
    ("wan2.1", "t2v", "large", "1xH100-80GB"): "2.1_t2v",
    ("wan2.1", "t2v", "stream", "8xH100-80GB"): "2.1_t2v",
    ("wan2.1", "i2v", "large", "8xH100-80GB"): "2.1_i2v",
    ("wan2.2", "t2v", "small", "1xRTX4090-24GB"): "2.2_5b",
    ("wan2.2", "t2v", "small", "2x8xH100-80GB"): "2.2_5b",
    ("wan2.2", "t2v", "large", "8xH100-80GB"): "2.2_a14b_t2v",
    ("wan2.2", "t2v", "stream", "8xH100-80GB"): "2.2_5b",
    ("wan2.2", "i2v", "small", "8xH100-80GB"): "2.2_5b",
    ("wan2.2", "i2v", "large", "8xH100-80GB"): "2.2_a14b_i2v",
    ("ltx", "t2v", "small", "1xRTX4090-24GB"): "",
    ("ltx2", "t2v", "large", "4xRTX4090-24GB"): "",
}
FIRST, *OTHERS = CHECKED


@pytest.mark.parametrize(
    "case", [FIRST, *(pytest.param(case, marks=pytest.mark.slow) for case in OTHERS)], ids=" ".join
)
def test_a_written_preset_passes_check(home, case, capsys):
    """Planned by the published architecture; a tiny random pipeline then stands for the weights."""
    sys.path.insert(0, str(ROOT / "examples"))
    import tiny_ltx
    import tiny_ltx2
    import tiny_wan

    Image.new("RGB", (64, 48)).save(home / "a.png")
    (home / "pictures.jsonl").write_text('{"caption": "a kite", "image": "a.png"}\n' * 2)
    family, task, goal, gpus = case
    data = "pictures.jsonl" if task == "i2v" else "prompts.txt"
    assert main(line("first.yaml", family=family, task=task, goal=goal, gpus=gpus, data=data)) == 0
    config = load_config(Path("first.yaml"), (), {}).config
    assert config.train.workers == parse_cluster(gpus).gpus and config.name == "first"
    kind = ["--kind", CHECKED[case]] if CHECKED[case] else []
    {"ltx": tiny_ltx, "ltx2": tiny_ltx2}.get(family, tiny_wan).main([str(config.model.path), *kind])
    assert main(["check", "first.yaml"]) == 0
    assert capsys.readouterr().out.endswith("first.yaml: ready to train\n")


# Answers


def test_a_folder_that_looks_like_the_scheme_of_a_uri_is_one(home):
    (home / "we: ird #1").mkdir()
    (home / "we: ird #1/m.jsonl").write_text('{"video": "a.mp4", "caption": "a"}\n')
    assert read_data("we: ird #1/m.jsonl", False) == {"manifest": "we: ird #1/m.jsonl"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"family": "wan2.3"}, r"--family wan2\.3: .*did you mean 'wan2\.[12]'"),
        ({"family": "sora"}, "--family sora: .*known: cogvideox, hunyuan15, ltx, ltx2, "),
        ({"task": "v2v"}, "--task v2v: .*did you mean '[ti]2v'"),
        ({"family": "ltxvideo"}, "--family ltxvideo: LTX-Video is ltx; "),
        ({"family": "cogvideox", "task": "i2v"}, "--task i2v: init has no such task here; known: t2v"),
        ({"goal": "best"}, "--goal best: .*known: large, small, stream"),
        ({"gpus": "8xH100"}, "--gpus 8xH100: .*known: H100-80GB"),
        ({"gpus": "8xH100-81GB"}, "--gpus 8xH100-81GB: .*did you mean 'H100-80GB'"),
        ({"gpus": "3xH100-80GB"}, "--gpus 3xH100-80GB: 3 GPUs cannot share a batch of 64 evenly; use 2 or 4 of them"),
        ({"gpus": "128xH100-80GB"}, "--gpus 128xH100-80GB: .*; use 64 of them"),
        ({"data": "clips"}, "--data clips: no such file or folder"),
        ({"data": "~nobody-of-that-name/x"}, "nobody-of-that-name"),
        ({"data": "empty"}, "empty"),
        ({"data": "broken.csv"}, "caption"),
        ({"family": "wan2.1", "task": "i2v"}, "needs a picture with each prompt"),
        ({"out": "first.txt"}, r"first\.txt: the file to write ends in \.yaml"),
        ({"out": "taken.yaml"}, r"taken\.yaml: this file exists"),
        ({"out": "a b.yaml"}, "name"),
    ],
)
def test_a_wrong_answer_is_refused_by_name(home, capsys, flags, message):
    (home / "taken.yaml").write_text("mine")
    (home / "empty").mkdir()
    (home / "broken.csv").write_text("a,b\n1,2\n")
    out = flags.pop("out", "first.yaml")
    assert main(line(out, **(WAN | flags))) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.startswith("ray-distill init: ")
    assert {path.name for path in home.iterdir()} == {"prompts.txt", "taken.yaml", "empty", "broken.csv"}
    assert (home / "taken.yaml").read_text() == "mine"


def test_gpus_on_which_nothing_fits_are_refused_with_those_on_which_it_does(home, monkeypatch, capsys):
    monkeypatch.setattr("ray_distill.init.choose.fitting", lambda answers, cluster, name: cluster.gpus > 4 or None)
    assert main(line("first.yaml", **WAN | {"gpus": "4xH100-80GB"})) == 2
    error = capsys.readouterr().err
    assert "--gpus 4xH100-80GB: no change that plan knows makes configs/wan2.1_1.3b/dmd.yaml fit" in error
    assert error.endswith("it fits 8xH100-80GB, 2x8xH100-80GB\n")


def test_without_a_terminal_each_missing_flag_is_named(home):
    with pytest.raises(ConfigError, match="give --gpus and --data: standard input is no terminal"):
        init(Path("first.yaml"), {"family": "wan2.1"}, None)


@pytest.mark.parametrize("words", [["key=value"], ["--machine"]])
def test_init_takes_no_overrides(words, capsys):
    with pytest.raises(SystemExit):
        main(["init", "first.yaml", *words])
    assert f"{words[0]}; see ray-distill init --help" in capsys.readouterr().err


def test_questions_come_again_until_they_are_answered(home, capsys):
    replies = iter(["wan9", "wan2.2", "", "large", "one", "8xH100-80GB", "nowhere", "prompts.txt"])
    asked = []

    def ask(question: str) -> str:
        asked.append(question.split(" ")[0])
        return next(replies)

    collected = questions.collect({}, ask)
    assert asked == ["Family", "Family", "Task", "Goal", "GPUs,", "GPUs,", "Data:", "Data:"]
    assert collected == Answers("wan2.2", "t2v", "large", read_cluster("8xH100-80GB"), {"prompts": "prompts.txt"})
    errors = capsys.readouterr().out.splitlines()
    assert [text.split(":")[0] for text in errors] == ["--family wan9", "--gpus one", "--data nowhere"]

    def ended(question: str) -> str:
        raise EOFError

    with pytest.raises(ConfigError, match="give --family: the input ended"):
        questions.collect({}, ended)


@pytest.mark.parametrize(
    ("place", "content", "dataset"),
    [
        ("p.txt", "a kite", {"prompts": "p.txt"}),
        ("p.jsonl", '{"caption": "a kite"}', {"prompts": "p.jsonl"}),
        ("p.jsonl", '{"caption": "a kite", "image": "a.png"}', {"prompts": "p.jsonl", "image_column": "image"}),
        ("m.jsonl", '{"video": "a.mp4", "caption": "a kite"}', {"manifest": "m.jsonl"}),
        ("m.csv", "video,caption\na.mp4,a kite\n", {"manifest": "m.csv"}),
        ("p.csv", "caption\na kite\n", {"prompts": "p.csv"}),
        ("a.tar", "", {"shards": "a.tar"}),
        ("clips/a.mp4", "", {"videos": "clips"}),
        ("shards/a.tar", "", {"shards": "shards"}),
    ],
)
def test_the_kind_of_data_follows_from_the_place(home, place, content, dataset):
    (home / place).parent.mkdir(exist_ok=True)
    (home / place).write_text(content)
    assert read_data(place.partition("/")[0], with_pictures=True) == dataset
    without = {key: value for key, value in dataset.items() if key != "image_column"}
    assert read_data(place.partition("/")[0], with_pictures=False) == without


def test_remote_places_are_known_by_their_names():
    assert read_data("s3://bucket/clips", False) == {"videos": "s3://bucket/clips"}
    assert read_data("s3://bucket/m.jsonl?x=1", False) == {"manifest": "s3://bucket/m.jsonl?x=1"}


# Documents


def test_the_transcript_is_what_the_command_prints(home, monkeypatch, capsys):
    """docs/init.md: replies stand behind their questions."""
    (block,) = re.findall(r"^```console\n\$ (ray-distill init .*?)^```", GUIDE.read_text(), re.S | re.M)
    command, _, expected = block.partition("\n")
    replies = iter(["wan2.1", "t2v", "small", "1xRTX4090-24GB", "prompts.txt"])

    def ask(question: str) -> str:
        reply = next(replies)
        print(question + reply)
        return reply

    monkeypatch.setattr("builtins.input", ask)
    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": lambda self: True})())
    assert main(command.split()[1:]) == 0
    assert capsys.readouterr().out == expected
    (text,) = re.findall(r"^```yaml\n(.*?)^```", GUIDE.read_text(), re.S | re.M)
    shown = [part.strip("\n") for part in text.split("...\n")]
    assert len(shown) > 2 and all(part in (home / "first.yaml").read_text() for part in shown)
