"""Several datasets of one SimpleTuner file, and the spellings of the files themselves."""

import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from ray_distill.config import ConfigError
from ray_distill.data.prepare.listing import entries
from ray_distill.importers import load_run
from tests.unit.simpletuner.examples import home, load, seed

AREA = {"crop": False, "resolution": 64, "resolution_type": "pixel_area", "num_frames": 9}
SQUARE = {"crop": True, "resolution": 48, "resolution_type": "pixel_area", "num_frames": 9}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(home(tmp_path))
    (tmp_path / "more").mkdir()
    return tmp_path


def two(folder, first, second, *overrides, **changes):
    own = [{"id": "a", "instance_data_dir": "clips"} | first, {"id": "b", "instance_data_dir": "more"} | second]
    (folder / "two.json").write_text(json.dumps(own))
    bare = {key: value for key, value in seed("dmd_config.json").items() if not key.startswith(("resol", "minim"))}
    return load(folder, bare | {"data_backend_config": "two.json"} | changes, *overrides)


@pytest.mark.parametrize(("first", "second"), [(SQUARE, SQUARE | {"resolution": 96}), (AREA, SQUARE), (SQUARE, AREA)])
def test_two_sizes_with_a_square_are_refused(first, second, folder):
    with pytest.raises(ConfigError, match=r"two sizes: 'a' .*, 'b' .*Squares have one size in a run: give all"):
        two(folder, first, second)
    data = two(folder, SQUARE, SQUARE).config.data
    assert (data.resolution_type, data.height, data.width, data.crop) == ("fixed", 48, 48, True)


def test_two_areas_train_at_their_own_and_the_report_says_so(folder):
    loaded = two(folder, AREA, AREA | {"resolution": 96, "num_frames": 5, "crop_aspect": "preserve", "crop": True})
    data = loaded.config.data
    clips = [data.clips(part) for part in data.parts]
    assert [(each.resolution, each.frames, each.crop) for each in clips] == [(64, 9, False), (96, 5, True)]
    assert any("dataset.resolution = 96 (of b) -> " in line and "resolution = 96" in line for line in loaded.report)


def test_what_a_dataset_does_not_say_is_simpletuners_default_and_not_the_firsts(folder):
    first = AREA | {"minimum_image_size": 48, "frame_interval": 3, "crop": True, "crop_aspect": "preserve"}
    loaded = two(folder, first, {"resolution": 64})
    clips = [loaded.config.data.clips(part) for part in loaded.config.data.parts]
    assert [(each.minimum_image_size, each.stride, each.crop) for each in clips] == [(48, 3, True), (0, 1, False)]
    assert [each.frames for each in clips] == [9, 9]
    assert any("dataset.num_frames = null (of b): not set: clips are as long as" in line for line in loaded.warnings)
    beside = two(folder, first, {"resolution": 64}, minimum_image_size=32).config.data
    assert [beside.clips(part).minimum_image_size for part in beside.parts] == [48, 32]


def test_one_cache_holds_all_datasets(folder):
    loaded = two(folder, AREA | {"cache_dir_vae": "cache/a"}, AREA | {"cache_dir_vae": "cache/b"})
    assert loaded.config.data.cache_dir == folder / "cache" / "a"
    (line,) = [line for line in loaded.warnings if "one cache holds the latents and text of all datasets" in line]
    assert line.startswith("dataset.cache_dir_vae = cache/b (of b): no effect") and line.endswith("cache/a")
    assert two(folder, AREA, AREA | {"cache_dir": "cache/b"}).config.data.cache_dir == folder / "cache" / "b"


@pytest.mark.parametrize(
    ("first", "second", "sampling", "repeats", "probability"),
    [
        ({"repeats": 2, "probability": 1.0}, {"repeats": 0, "probability": 1.0}, None, [2, 0], [None, None]),
        ({"repeats": 1, "probability": 0.5}, {"probability": 1}, "auto-weighting", [0, 0], [None, None]),
        ({"probability": 3}, {}, None, [2, 0], [None, None]),
        ({"probability": 0}, {"repeats": 1}, None, [0, 1], [None, None]),  # SimpleTuner reads 0 as 1
        ({"probability": 3, "repeats": 9}, {}, "uniform", [0, 0], [3, 1]),
        ({"repeats": 1}, {}, "uniform", [0, 0], [1, 1]),
    ],
)
def test_how_often_each_dataset_is_seen(first, second, sampling, repeats, probability, folder):
    parts = two(folder, AREA | first, AREA | second, data_backend_sampling=sampling).config.data.parts
    assert [part.repeats for part in parts] == repeats and [part.probability for part in parts] == probability


@pytest.mark.parametrize("word", ["False", "false", False, "no", 0])
def test_a_text_false_keeps_a_dataset(word, folder):
    for key in ("disabled", "disable"):
        assert len(two(folder, AREA, AREA | {key: word}).config.data.parts) == 2
        assert len(two(folder, AREA, AREA | {key: "True"}).config.data.parts) == 1


def test_a_table_of_captions_beside_the_folder_of_videos(folder):
    table = pa.table({"file": ["0.mp4", "../more/1.mp4"], "says": ["a cow", "a hen"], "w": [640, 640]})
    parquet.write_table(table, folder / "table.parquet")
    section = {"path": "table.parquet", "filename_column": "file", "caption_column": "says", "width_column": "w"}
    beside = {"caption_strategy": "parquet", "metadata_backend": "parquet", "parquet": section}
    data = two(folder, AREA | beside, AREA | {"disabled": True}).config.data
    found = list(entries(data))
    assert [(each.path, each.caption) for each in found[:1]] == [(str(folder / "clips" / "0.mp4"), "a cow")]
    assert "lies outside the manifest's folder" in found[1].error
    captions = {**beside, "caption_strategy": "textfile"}  # the table then holds sizes, which files tell themselves
    assert two(folder, AREA | captions, AREA).config.data.parts[0].kind == "videos"
    names = {"parquet_filename_column": "file", "parquet_caption_column": "says"}
    short = AREA | beside | {"parquet": {"path": "table.parquet"}}
    assert two(folder, short, AREA, **names).config.data.parts[0].caption_column == "says"
    for change, message in (
        ({"identifier_includes_extension": False}, "a table names its videos with their extension here"),
        ({"filname_column": "x"}, "known: path, filename_column"),
        ({"path": "gone.parquet"}, "no such file in"),
    ):
        with pytest.raises(ConfigError, match=message):
            two(folder, AREA | beside | {"parquet": section | change}, AREA)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_a_byte_order_mark_names_the_encoding(encoding, folder):
    mark = "\ufeff" if encoding == "utf-16-le" else ""
    given = seed("dmd_config.json") | {"tracker_run_name": "café"}
    for name, content in (("config.json", given), ("config/wan/validation_prompts_dmd.json", {"one": "a café"})):
        (folder / name).write_bytes((mark + json.dumps(content, ensure_ascii=False)).encode(encoding))
    config = load_run(folder / "config.json", environment={}).config
    assert config.name == "café" and config.evaluate.prompts["one"] == "a café"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{\n"tracker_run_name": "café"}'.encode("latin-1"), r"line 2: not UTF-8 \(byte 0xe9\); save it as UTF-8"),
        (b'{"seed": 1, "seed": 2}', "not valid JSON: 'seed' is there twice; remove one of them"),
        (b'{"distillation_config": {"shift": 1, "shift": 2}}', "'shift' is there twice"),
        (b'{"a": ' * 20 + b"1" + b"}" * 20 + b"}", "not valid JSON"),
        (b'{"seed": 1,}', "not valid JSON"),
        (b"[]", "expected a mapping of keys, found a list"),
        (b'"text"', "expected a mapping of keys, found a str"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_its_place(content, message, folder):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ConfigError, match=message) as error:
        load_run(folder / "config.json", environment={})
    assert str(folder / "config.json") in str(error.value)


def test_the_web_forms_wrapper_comments_and_upper_case_are_taken(folder):
    given = seed("dmd_config.json")
    wanted = load(folder, given).config
    form = {"_metadata": {"name": "mine"}, "config": {f"--{key}": value for key, value in given.items()}}
    assert load(folder, form).config == wanted
    comments = {"_comment": "mine", "// seed": 7, "#lr": 3, "_learning_rate": 1}
    section = given["distillation_config"] | {"_comment": "x"}
    loaded = load(folder, given | comments | {"distillation_method": "DMD", "distillation_config": section})
    assert loaded.config == wanted and "_learning_rate = 1 -> accepted: a comment" in loaded.report
    (folder / "section.json").write_text(json.dumps(given["distillation_config"]))
    assert load(folder, given | {"distillation_config": "section.json"}).config == wanted
    data = json.loads((folder / "config/wan/multidatabackend.json").read_text())
    wrapped = {"_metadata": {}, "config": [{"_comment": "no dataset"}, data[0] | {"_comment": "mine"}]}
    (folder / "config/wan/multidatabackend.json").write_text(json.dumps(wrapped))
    assert load(folder, given).config == wanted


def test_placeholders_are_filled_in(folder, monkeypatch):
    monkeypatch.setenv("CLIPS", "clips")
    entry = AREA | {"instance_data_dir": "{env:CLIPS}", "cache_dir_vae": "cache/{model_family}/{output_dir}/{other}"}
    loaded = two(folder, entry, AREA, tracker_run_name="{model_type}-run", validation_prompt="a {model_type}")
    assert loaded.config.data.parts[0].place == folder / "clips" and loaded.config.name == "lora-run"
    assert loaded.config.data.cache_dir == folder / "cache/wan/output/wan-dmd/{other}"
    assert loaded.config.evaluate.prompts["validation"] == "a {model_type}"
    for broken in (AREA | {"instance_data_dir": "{env:NO_SUCH}"}, {}):
        more = {} if broken else {"output_dir": "{env:NO_SUCH}"}
        with pytest.raises(ConfigError, match=r"\{env:NO_SUCH\}: this environment variable is not set"):
            two(folder, AREA | broken, AREA, **more)


def test_a_home_an_upper_case_type_and_a_none(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    none = {"validation_prompt_library": "none", "webhook_config": False}
    loaded = two(folder, AREA | {"instance_data_dir": "~/clips", "dataset_type": "VIDEO"}, AREA, **none)
    assert loaded.config.data.parts[0].place == folder / "clips" and loaded.config.track.webhook is None
    assert list(loaded.config.evaluate.prompts) == ["validation"]
