"""Print a plan as text, its answer first."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ray_distill.columns import table
from ray_distill.config import RunConfig
from ray_distill.config.evaluate import Evaluate
from ray_distill.plan.changes import Change
from ray_distill.plan.encoding import TEXT_BYTES, coding, text_elements
from ray_distill.plan.estimate import Estimate
from ray_distill.plan.hardware import GIB, Cluster
from ray_distill.plan.memory import TERMS
from ray_distill.plan.sampling import Sampling, sampling


@dataclass(frozen=True)
class Assumed:
    """Unmeasured assumptions: the share of the data sheet's peak that a run reaches, USD per hour, and memory to keep
    free."""

    mfu: float = 0.4
    price: float = 0.0
    reserve: float = 0.08

    def free(self, cluster: Cluster) -> float:
        """Bytes that a rank may use."""
        return (1 - self.reserve) * cluster.gpu.memory * GIB


def report(estimate: Estimate, cluster: Cluster | None, assumed: Assumed, change: Change | None, note: str = "") -> str:
    """The report as text; ``note`` names a planned value that replaces the configuration's."""
    return "\n\n".join(
        [
            answer(estimate, cluster, assumed, change) + note,
            memory_table(estimate, cluster, assumed),
            forwards_table(estimate),
            cost(estimate, cluster, assumed),
        ]
    )


def answer(estimate: Estimate, cluster: Cluster | None, assumed: Assumed, change: Change | None) -> str:
    config, peak = estimate.config, estimate.peak
    used, workers = peak.total / GIB, f"{config.train.workers} worker{'s' * (config.train.workers > 1)}"
    if cluster is None:
        return (
            f"{used:.1f} GiB per GPU on {workers}, peak in: {peak.name}\nName a cluster, for "
            "example cluster=8xH100-80GB, for a verdict, seconds and money."
        )
    memory, free = cluster.gpu.memory, assumed.free(cluster) / GIB
    used += memory - free
    where = f"{config.name} on {cluster}, {workers}\npeak in: {peak.name}"
    if used <= memory:
        return f"fits: {used:.1f} of {memory} GiB per GPU\n{where}"
    if change is None:
        remedy = "no change that plan knows makes it fit"
    else:
        kept = change.estimate.peak.total / GIB + memory - free
        on = change.estimate.config.train.workers
        larger = f"  ({cluster.of(on)})" if on != config.train.workers else ""
        remedy = "\n".join(
            [f"cheapest change, {kept:.1f} of {memory} GiB{larger}:", *(f"  {key}" for key in change.keys)]
        )
    return f"does not fit: {used - memory:.1f} GiB too much, {used:.1f} of {memory} GiB per GPU\n{remedy}\n{where}"


def memory_table(estimate: Estimate, cluster: Cluster | None, assumed: Assumed) -> str:
    rows = []
    for role, row in estimate.peak.rows.items():
        sizes = estimate.parameters[role]
        count = " / ".join(digits(sum(each) / 1e6, 5) for each in (sizes.trainable, sizes.every))
        rows.append([role, count, *(f"{value / GIB:.2f}" for value in row), f"{sum(row) / GIB:.2f}"])
    sums = [estimate.peak.term(term) / GIB for term in TERMS]
    total = estimate.peak.total / GIB
    if cluster is not None:
        kept = cluster.gpu.memory - assumed.free(cluster) / GIB
        rows.append(["reserve (assumed)", "", *[""] * len(TERMS), f"{kept:.2f}"])
        total += kept
    rows.append(["sum", "", *(f"{value:.2f}" for value in sums), f"{total:.2f}"])
    return table(["GiB per GPU", "M trained / all", *TERMS, "sum"], rows)


def forwards_table(estimate: Estimate) -> str:
    repeated = estimate.cycle
    times = ", ".join(f"{kind.times} of {kind.role}" for kind in repeated.kinds)
    rows = []
    for role in [role for role in estimate.parameters if role not in estimate.config.method.heads]:
        each = [f"{float(repeated.expected(role, grad)):g}" for grad in (True, False)]
        rows.append([role, *each, digits(estimate.flops[role] / 1e12, 4)])
    head = ["forwards of a micro-batch per cycle", "with gradient", "without", "TFLOP per GPU and step"]
    return (
        f"{table(head, rows)}\na cycle: {repeated.steps} steps with updates {times}; random exits count by their "
        "expectation"
    )


def digits(value: float, significant: int) -> str:
    """1234.5 -> "1,200" at two significant digits; never in powers of ten above 1."""
    rounded = float(f"{value:.{significant}g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 10 ** (significant - 1) else f"{rounded:g}"


def cost(estimate: Estimate, cluster: Cluster | None, assumed: Assumed) -> str:
    train = estimate.config.train
    lines = []
    if cluster is not None:
        peaks = {estimate.config.role(role).dtype for role in estimate.flops}
        seconds = step_seconds(estimate, cluster, assumed)
        hours = seconds * train.steps / 3600
        at = ", ".join(f"{cluster.gpu.peak(dtype) / 1e12:g} TFLOP/s in {dtype}" for dtype in sorted(peaks))
        lines += [
            f"about {digits(seconds, 2)} s a step, {digits(hours, 2)} h and "
            f"{digits(hours * cluster.gpus * assumed.price, 2)} USD for {train.steps:,} steps. Assumed, not measured:",
            f"  mfu={assumed.mfu:g} of the data sheet's {at}; no communication, data, evaluation",
            f"  price={assumed.price:g} USD per GPU and hour"
            + (", a round figure" if assumed.price == cluster.gpu.price else ""),
            f"  {assumed.reserve:.0%} of memory for CUDA, NCCL, fragmentation and the difference between a card's "
            "name and its memory",
        ]
        if sent := sum(estimate.sent.values()):
            lines.append(
                f"{digits(sent / 1e9, 3)} GB sent by a GPU in a step to those that share its clips (sequence_parallel)"
            )
        node = cluster.per_node * estimate.host / GIB
        if estimate.host:
            lines.append(f"offloaded to CPU memory: {estimate.host / GIB:.1f} GiB a worker, {node:.0f} a node")
    lines += [
        *sampling_lines(sampling(estimate.config, estimate.latent), estimate.config.evaluate, cluster, assumed),
        *encoding_lines(estimate.config, cluster, assumed),
        f"a checkpoint: {estimate.checkpoint / 1e9:,.3g} GB on disk",
        "counted: weights, gradients, optimizer (fp32 masters, moments), EMA, forwards, FLOPs; activations",
        "  with a CPU's kernels, an upper bound. Estimated: buffers. Not measured on a GPU: docs/plan.md",
        *(
            f"not counted: the calls of {role}, heads on {heads.of}"
            for role, heads in estimate.config.method.heads.items()
        ),
    ]
    return "\n".join(lines)


def sampling_lines(task: Sampling, settings: Evaluate, cluster: Cluster | None, assumed: Assumed) -> list[str]:
    """Memory of a task of the evaluation, and the change with which it fits."""
    where = "a GPU" if settings.gpus == 1 else f"each of {settings.gpus} GPUs"
    lines = [
        f"sampling: {task.total / GIB:.1f} GiB on {where} in batches of {task.videos}: weights "
        f"{task.weights / GIB:.1f}, codec {task.codec / GIB:.1f}, a call {task.forward / GIB:.1f} or decoding "
        f"{task.decode / GIB:.1f}",
        f"  Sampling and export hold one tensor in CPU memory, of {task.tensor / GIB:.1f} GiB at most",
    ]
    if cluster is not None and task.total > (free := assumed.free(cluster)):
        remedy = task.remedy(free, settings.gpus, cluster.per_node)
        what = f"set {remedy}" if remedy else "no batch, tiles or GPUs of a node make it fit"
        lines.insert(1, f"  warning: more than the {free / GIB:.1f} GiB of a GPU that are free; {what}")
    return lines


def encoding_lines(config: RunConfig, cluster: Cluster | None, assumed: Assumed) -> list[str]:
    """Memory of the actors of `prepare`, and the changes with which they fit a GPU."""
    model, data, size = config.model, config.data, (config.data.frames, config.data.height, config.data.width)
    elements, on_gpu = text_elements(config), data.encoder_gpus > 0
    text = elements * TEXT_BYTES[model.text_encoder_precision]
    loaded = elements * (2 if model.text_encoder_precision == "bfloat16" else 4)
    lines = [
        f"prepare: text encoder {text / GIB:.1f} GiB on {'a GPU' if on_gpu else 'a CPU'}, {loaded / GIB:.1f} of CPU "
        "memory while it is loaded"
    ]
    free = math.inf if cluster is None or not on_gpu else assumed.free(cluster)
    if text > free:
        fitting = [kind for kind in model.pipeline.of.text_precisions if elements * TEXT_BYTES[kind] <= free]
        on_cpu = "data.encoder_gpus=0 data.encoders=1"  # each actor there holds all weights
        what = f"model.text_encoder_precision={fitting[0]}" if fitting else on_cpu
        lines.append(f"  warning: more than the {free / GIB:.1f} GiB of a GPU that are free; set {what}")
    if data.has_videos:
        clips = data.encode_batch if on_gpu else 1
        whole, tiled = (coding(model.pipeline, size, tiling) for tiling in (model.vae_tiling, True))
        total = whole.weights + clips * whole.encode
        lines.append(
            f"  codec {total / GIB:.1f} GiB in batches of {clips}: weights {whole.weights / GIB:.1f}, a clip "
            f"{whole.encode / GIB:.1f}"
        )
        if total > free:
            one = min(whole.encode, tiled.encode)
            tiles = " model.vae_tiling=true" * (whole.weights + whole.encode > free)
            fits = whole.weights + one <= free
            what = f"set data.encode_batch=1{tiles}" if fits else "neither one clip nor tiles make it fit"
            lines.append(f"  warning: more than the {free / GIB:.1f} GiB of a GPU that are free; {what}")
    return lines


def step_seconds(estimate: Estimate, cluster: Cluster, assumed: Assumed) -> float:
    roles = estimate.flops.items()
    return sum(flops / (assumed.mfu * cluster.gpu.peak(estimate.config.role(role).dtype)) for role, flops in roles)
