"""GPUs and their driver by NVML, the CUDA that torch was built for, and NCCL, without an import of torch."""

from __future__ import annotations

import runpy
from collections import Counter
from collections.abc import Iterator
from ctypes.util import find_library
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pynvml

from ray_distill.machine.line import Line, Needs, absent

DRIVER = "install NVIDIA's driver; in a container also its toolkit, and start the container with --gpus all"
BUILD = "install a CUDA build of torch: pytorch.org has the command for each CUDA"
GIB = 1 << 30


def gpus(needs: Needs) -> Iterator[Line]:
    """Lines for the GPUs, for torch's CUDA and for NCCL. Without a GPU that is needed or present, the last two need
    nothing."""
    names, driver, cuda = inventory()
    need = f", and the run needs {needs.gpus}" if needs.gpus else ""
    if not names:
        yield absent(needs.gpus > 0, "GPUs", f"{driver}{need}", DRIVER)
    elif len(names) < needs.gpus:
        fewer = f"set train.workers={len(names)}, or run on a machine or a Ray cluster with {needs.gpus}"
        yield Line("missing", "GPUs", f"{listing(names)}{need}", fewer)
    else:
        yield Line("ok", "GPUs", f"{listing(names)}; {driver}")
    used = bool(needs.gpus or names)
    yield of_torch(cuda_of_torch(), cuda, used)
    version = nccl()
    if version:
        yield Line("ok", "NCCL", version)
    else:
        yield absent(needs.gpus > 1 or len(names) > 1, "NCCL", "none: GPUs need it to train together", BUILD)


def inventory() -> tuple[list[str], str, int]:
    """Names of the GPUs with their memory, a text on the driver, and the newest major CUDA that the driver runs (0
    without one)."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return [], f"none: {error}", 0
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(n) for n in range(pynvml.nvmlDeviceGetCount())]
        names = [
            f"{pynvml.nvmlDeviceGetName(h)} {pynvml.nvmlDeviceGetMemoryInfo(h).total / GIB:.1f} GiB" for h in handles
        ]
        cuda = pynvml.nvmlSystemGetCudaDriverVersion_v2()
        text = f"driver {pynvml.nvmlSystemGetDriverVersion()} for CUDA {cuda // 1000}.{cuda % 1000 // 10}"
        return names, text if names else f"none, although there is a {text}", cuda // 1000
    finally:
        pynvml.nvmlShutdown()


def listing(names: list[str]) -> str:
    return ", ".join(f"{count} x {name}" for name, count in Counter(names).items())


def cuda_of_torch() -> str | None:
    """The CUDA of torch, such as 13.0; "" for a build without CUDA, None where torch is not installed."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    version: str | None = runpy.run_path(str(Path(spec.origin).with_name("version.py")))["cuda"]
    return version or ""


def of_torch(cuda: str | None, driver: int, used: bool) -> Line:
    """The line of torch's CUDA; a driver runs every CUDA of its own major version, and older ones."""
    if not cuda:
        return absent(used, "CUDA", "torch was built without it" if cuda == "" else "torch is not installed", BUILD)
    if driver and int(cuda.partition(".")[0]) > driver:
        newer = f"update the driver, or {BUILD}"
        return Line("missing", "CUDA", f"torch was built for {cuda}, and the driver runs CUDA {driver} at most", newer)
    return Line("ok", "CUDA", f"torch was built for {cuda}")


def nccl() -> str:
    """Version of NCCL's wheel, or the name of the system's library; empty where there is neither."""
    wheels = [one for one in metadata.distributions() if one.name.startswith("nvidia-nccl-cu")]
    if wheels:
        return f"{wheels[0].version} ({wheels[0].name})"
    return find_library("nccl") or ""
