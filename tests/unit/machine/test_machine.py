"""`check --machine`: each absence is planted, named, and comes with the way to get what is missing."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest

from ray_distill.cli import main
from ray_distill.config import load_config
from ray_distill.machine import gpus, libraries, places, services
from ray_distill.machine.line import Line, Needs, text_of
from ray_distill.machine.look import needs_of, no_run

ROOT = Path(__file__).parents[3]
SMALL = ROOT / "configs/wan2.1_1.3b/dmd.yaml"


def state(line: Line) -> tuple[str, bool]:
    """The state, and whether a way to get it is given: always where it is missing, never where it is there."""
    assert bool(line.remedy) or line.state != "missing"
    assert not line.remedy or line.state != "ok"
    return line.state, bool(line.remedy)


# Libraries


@pytest.fixture
def project(tmp_path: Path):
    """A checkout with these dependencies, Python's bounds and pins."""

    def write(dependencies: list[str], python: str = ">=3.11", constraints: str = "") -> Path:
        (tmp_path / "pyproject.toml").write_text(
            f"[project]\nrequires-python = {python!r}\ndependencies = {dependencies!r}\n"
        )
        if constraints:
            (tmp_path / "constraints.txt").write_text(constraints)
        return tmp_path

    return write


def test_a_missing_and_an_old_library_are_named_with_the_command(project):
    of = ["no-such-library>=2", "numpy>=99", "pillow>=1", "ray[data,tune]>=2", "absent-here; python_version < '3'"]
    lines = {line.name: line for line in libraries.libraries(project(of, constraints="# pins\nPillow==1.5\n"))}
    assert set(lines) == {"python", "no-such-library", "numpy", "pillow", "ray"}
    assert [state(line)[0] for line in lines.values()] == ["ok", "missing", "missing", "ok", "ok"]
    assert lines["no-such-library"].remedy == "pip install -c constraints.txt 'no-such-library>=2'"
    assert "outside >=99" in lines["numpy"].text and lines["pillow"].text.endswith("(tests ran with 1.5)")


def test_extras_stay_in_the_command_and_pythons_bounds_hold(project):
    lines = list(libraries.libraries(project(["ray[tune,data]>=99"], python="<3")))
    assert [line.state for line in lines] == ["missing", "missing"]
    assert lines[1].remedy == "pip install 'ray[data,tune]>=99'"


def test_our_own_requirements_hold_here_and_an_installed_package_has_them_too(tmp_path):
    own = {line.name: line for line in libraries.libraries()}
    assert {line.state for line in own.values()} == {"ok"} and {"torch", "deepspeed", "av"} <= own.keys()
    assert {"torch", "deepspeed", "av"} <= {line.name for line in libraries.libraries(tmp_path)}  # no checkout


# GPUs


@pytest.fixture
def machine_with(monkeypatch):
    """A machine with so many GPUs, the CUDA of its driver and of torch, and NCCL."""

    def plant(count: int, driver: int = 13, cuda: str | None = "13.0", nccl: str = "2.29 (nvidia-nccl-cu13)") -> None:
        names = ["NVIDIA H100 80GB HBM3 79.6 GiB"] * count
        monkeypatch.setattr(gpus, "inventory", lambda: (names, "driver 580" if count else "none: no driver", driver))
        monkeypatch.setattr(gpus, "cuda_of_torch", lambda: cuda)
        monkeypatch.setattr(gpus, "nccl", lambda: nccl)

    return plant


@pytest.mark.parametrize(
    ("plant", "need", "states"),
    [
        ({"count": 8}, 8, ["ok", "ok", "ok"]),
        ({"count": 8}, 0, ["ok", "ok", "ok"]),
        ({"count": 0, "driver": 0, "cuda": "", "nccl": ""}, 0, ["note", "note", "note"]),
        ({"count": 0, "driver": 0}, 1, ["missing", "ok", "ok"]),
        ({"count": 2}, 8, ["missing", "ok", "ok"]),
        ({"count": 1, "cuda": ""}, 1, ["ok", "missing", "ok"]),
        ({"count": 1, "cuda": None}, 1, ["ok", "missing", "ok"]),
        ({"count": 1, "driver": 12}, 1, ["ok", "missing", "ok"]),
        ({"count": 1, "driver": 13, "cuda": "12.8"}, 1, ["ok", "ok", "ok"]),
        ({"count": 1, "nccl": ""}, 1, ["ok", "ok", "note"]),
        ({"count": 2, "nccl": ""}, 2, ["ok", "ok", "missing"]),
    ],
)
def test_gpus_cuda_and_nccl(machine_with, plant, need, states):
    machine_with(**plant)
    lines = list(gpus.gpus(Needs(gpus=need)))
    assert [line.name for line in lines] == ["GPUs", "CUDA", "NCCL"]
    assert [state(line)[0] for line in lines] == states


def test_nvml_without_a_driver_and_with_two_gpus(monkeypatch):
    def refuse() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", refuse)
    names, text, cuda = gpus.inventory()
    assert (names, cuda) == ([], 0) and text.startswith("none: ")
    of = {
        "nvmlInit": None,
        "nvmlShutdown": None,
        "nvmlDeviceGetCount": 2,
        "nvmlDeviceGetHandleByIndex": "handle",
        "nvmlDeviceGetName": "NVIDIA H100",
        "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=80 << 30),
        "nvmlSystemGetCudaDriverVersion_v2": 13010,
        "nvmlSystemGetDriverVersion": "580.1",
    }
    for name, value in of.items():
        monkeypatch.setattr(pynvml, name, lambda *_, value=value: value)
    assert gpus.inventory() == (["NVIDIA H100 80.0 GiB"] * 2, "driver 580.1 for CUDA 13.1", 13)
    assert gpus.listing(["a", "b", "a"]) == "2 x a, 1 x b"


def test_the_cuda_of_torch_is_read_without_torch():
    import torch

    assert gpus.cuda_of_torch() == (torch.version.cuda or "")


def test_the_wheel_of_nccl_is_found(monkeypatch):
    wheel = SimpleNamespace(name="nvidia-nccl-cu13", version="2.29.7")
    monkeypatch.setattr(gpus.metadata, "distributions", lambda: [SimpleNamespace(name="numpy", version="2"), wheel])
    assert gpus.nccl() == "2.29.7 (nvidia-nccl-cu13)"
    monkeypatch.setattr(gpus.metadata, "distributions", lambda: [])
    monkeypatch.setattr(gpus, "find_library", lambda name: None)
    assert gpus.nccl() == ""


# Disk and shared memory


def free(monkeypatch, size: float) -> None:
    monkeypatch.setattr(places.shutil, "disk_usage", lambda path: SimpleNamespace(free=int(size)))


def test_a_disk_that_is_too_small_is_missing_and_checkpoints_that_are_there_count(monkeypatch, tmp_path):
    free(monkeypatch, 1000)
    run = tmp_path / "output" / "run"
    assert state(places.of_folder("output_dir", run, 1000))[0] == "ok"
    line = places.of_folder("output_dir", run, 1001)
    assert state(line)[0] == "missing" and "output_dir" in line.remedy
    run.mkdir(parents=True)
    (run / "weights").write_bytes(b"x")
    assert state(places.of_folder("output_dir", run, 1001))[0] == "ok"


def test_a_folder_that_cannot_be_written_is_missing(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    assert state(places.of_folder("cache", tmp_path / "file" / "cache", 0))[0] == "missing"
    monkeypatch.setattr(places.os, "access", lambda path, mode: False)
    assert state(places.of_folder("cache", tmp_path, 0))[0] == "missing"


@pytest.mark.parametrize(
    ("shared", "memory", "expected"),
    [(64e6, 8e9, "missing"), (3e9, 8e9, "ok"), (9e9, 8e11, "missing"), (11e9, 8e11, "ok")],
)
def test_shared_memory_is_compared_with_rays_store(monkeypatch, tmp_path, shared, memory, expected):
    """Ray 2.60 takes 30 % of the memory, and of /dev/shm at least 10 GB where that is less."""
    free(monkeypatch, shared)
    monkeypatch.setattr(places, "SHARED", tmp_path)
    monkeypatch.setattr(places, "available", lambda: (int(memory), int(memory)))
    line = places.shared_memory()
    assert state(line)[0] == expected and ("--shm-size" in line.remedy) == (expected == "missing")
    monkeypatch.setattr(places, "SHARED", tmp_path / "none")
    assert places.shared_memory().state == "note"


def test_rays_store_is_as_places_says(monkeypatch):
    """By Ray's own function: the share, and the bytes below which /dev/shm does not bound it."""
    from ray._private import ray_constants, utils

    assert ray_constants.REQUIRE_SHM_SIZE_THRESHOLD == places.MOST
    monkeypatch.setattr(utils, "get_shared_memory_bytes", lambda: 64 << 20)
    assert utils.resolve_object_store_memory(int(20e9)) == pytest.approx(places.SHARE * 20e9, rel=0.01)
    assert utils.resolve_object_store_memory(int(800e9)) == pytest.approx(places.MOST, rel=0.01)


# Decoders, token, MLflow


def test_decoders_that_are_absent(monkeypatch):
    assert next(services.decoders()).state == "ok"
    monkeypatch.setattr(services, "DECODERS", ("h264", "no_such_codec"))
    line = next(services.decoders())
    assert state(line)[0] == "missing" and "no_such_codec" in line.text

    def refuse(name: str) -> None:
        raise ImportError(f"no {name}")

    monkeypatch.setattr(services, "import_module", refuse)
    assert [state(line)[0] for line in services.decoders()] == ["missing", "note"]


def test_the_token_is_never_printed(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    line = services.token(Needs(token=True))
    assert line.state == "ok" and "secret" not in text_of([line])
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert state(services.token(Needs(token=True)))[0] == "missing" and services.token(Needs()).state == "note"


@pytest.fixture
def server() -> Iterator[str]:
    """An address whose /health is ok, whose /refused/health is 401, and whose other pages are 503."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response({"/health": 200, "/refused/health": 401}.get(self.path, 503))
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def test_mlflows_server_is_asked_for_its_health(server):
    asked = {
        path: services.mlflow(Needs(uri=f"http://user:secret@{server}{path}")) for path in ("", "/", "/refused", "/x")
    }
    assert [state(line)[0] for line in asked.values()] == ["ok", "ok", "missing", "missing"]
    assert "MLFLOW_TRACKING_USERNAME" in asked["/refused"].remedy and "503" in asked["/x"].text
    assert "secret" not in text_of(asked.values())


@pytest.mark.parametrize("uri", ["http://user:secret@127.0.0.1:1", "http://127.0.0.1:port", "http://[::1"])
def test_a_server_that_does_not_answer_is_missing(uri):
    line = services.mlflow(Needs(uri=uri))
    assert state(line)[0] == "missing" and "does not answer" in line.text and "secret" not in line.text


@pytest.mark.parametrize(
    ("uri", "expected"),
    [("", "note"), ("sqlite:////a/b.db", "ok"), ("./mlruns", "note"), ("postgresql://u:pw@host/x", "note")],
)
def test_other_places_of_mlflow_are_not_asked(uri, expected):
    line = services.mlflow(Needs(uri=uri))
    assert line.state == expected and "pw" not in line.text


# A run's needs, and the verb


def test_needs_of_a_run(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    needs = needs_of(load_config(SMALL, [f"output_dir={tmp_path}", "train.checkpoints_keep=1"], {}).config)
    assert needs.gpus == 8 and needs.bytes == {"output_dir": 2 * 28 * 1_418_996_800} and not needs.token
    assert needs.folders["output_dir"] == tmp_path / "wan2.1_1.3b_dmd" and needs.uri.startswith("sqlite:")
    monkeypatch.setenv("RAY_ADDRESS", "auto")  # other machines bring the GPUs
    more = ["publish.hub_model_id=a/b", "publish.base_model=c/d", f"model.path={tmp_path / 'nowhere'}"]
    needs = needs_of(load_config(SMALL, more, {}).config)
    assert (needs.gpus, needs.token, needs.bytes) == (0, True, {"output_dir": 0})


def test_the_environment_names_a_server_without_a_run(monkeypatch):
    for name in ("RAY_DISTILL_TRACK__URI", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    assert no_run().uri == ""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert no_run().uri == "http://mlflow:5000"


@pytest.fixture
def whole(monkeypatch, machine_with):
    """A machine on which nothing is missing for a run on eight GPUs."""
    machine_with(8)
    free(monkeypatch, 1e15)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_the_verb_with_and_without_a_configuration(whole, capsys, monkeypatch):
    monkeypatch.setattr("ray.init", None)  # no cluster starts
    assert main(["check", "--machine"]) == 0
    assert capsys.readouterr().out.endswith("nothing that is needed is missing\n")
    assert main(["check", "--machine", str(SMALL)]) == 0
    assert main(["check", str(SMALL), "train.workers=16", "--machine", "track.uri=http://u:secret@127.0.0.1:1"]) == 1
    printed = capsys.readouterr().out
    assert printed.endswith("\nmissing: GPUs, MLflow\n") and "secret" not in printed
    with pytest.raises(SystemExit):
        main(["check"])


def test_where_a_library_is_missing_the_configuration_is_not_read(whole, monkeypatch, capsys, project):
    monkeypatch.setattr(libraries.libraries, "__defaults__", (project(["no-such-library"]),))
    assert main(["check", "--machine", "no/such/file.yaml"]) == 1
    assert capsys.readouterr().out.endswith("\nmissing: no-such-library\n")


def test_without_a_configuration_neither_torch_nor_ray_is_imported():
    code = (
        "import sys\nfrom ray_distill.cli import main\nmain(['check', '--machine'])\n"
        "print(*({'torch', 'ray', 'mlflow', 'diffusers'} & set(sys.modules)), sep=',')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == ""
