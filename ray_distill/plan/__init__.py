"""Memory, time and money of a run before it starts.

Runs on the driver, from configuration files only: it reads no weights, and networks stay on the meta device.
May import: config and all below it; no Ray.
A new figure owes a comparison with a measurement (docs/plan.md).
"""

from __future__ import annotations

from collections.abc import Mapping

from ray_distill.config import RunConfig
from ray_distill.config.sequence import check_heads, check_tokens
from ray_distill.plan.changes import cheapest
from ray_distill.plan.estimate import Estimate, estimate
from ray_distill.plan.hardware import GIB, Cluster, parse_cluster
from ray_distill.plan.network import latent_shape
from ray_distill.plan.report import Assumed, report


def plan(config: RunConfig, options: Mapping[str, str]) -> tuple[str, bool]:
    """The report, and whether the run fits, which is always true without a cluster. ValueError names a wrong option."""
    cluster = parse_cluster(options["cluster"]) if "cluster" in options else None
    assumed = assumptions(cluster, options)
    config, note = on(cluster, config) if cluster else (config, "")
    check_heads(config)
    check_tokens(config, [latent_shape(config)])
    result = estimate(config)
    if cluster is None:
        return report(result, None, assumed, None), True

    def fits(result: Estimate) -> bool:
        return result.peak.total <= assumed.free(cluster)

    change = None if fits(result) else cheapest(config, fits)
    return report(result, cluster, assumed, change, note), fits(result)


def room(config: RunConfig, memory: int) -> tuple[bool, str]:
    """Fit of a rank into ``memory`` bytes, True or False, and a line to print. It does not fit if its lasting state
    alone (weights, optimizer and averages) is larger. If only the whole estimate is larger, the line is a warning."""
    result = estimate(config)
    lasting = sum(s.weights + s.masters + s.moments + s.ema for s in result.states.values())
    most, has = result.peak.total, f"{memory / GIB:.1f} GiB"
    about = f"memory of a GPU: about {most / GIB:.1f} GiB of {has}, peak in: {result.peak.name}"
    if lasting <= memory:
        return True, about if most <= memory else f"warning: {about}; ray-distill plan names the cheapest change"
    change = cheapest(config, lambda changed: changed.peak.total <= memory)
    remedy = f"cheapest change: {' '.join(change.keys)}" if change else "no change that plan knows makes it fit"
    return False, (
        f"weights, optimizer and averages alone take {lasting / GIB:.1f} GiB on each of {config.train.workers} "
        f"workers, and the smallest GPU has {has}; {remedy}"
    )


def assumptions(cluster: Cluster | None, options: Mapping[str, str]) -> Assumed:
    """Assumptions of a plan: the defaults, replaced by ``options``."""
    values: dict[str, float] = {"price": cluster.gpu.price} if cluster else {}
    for key, most in (("price", 1e6), ("mfu", 1.0)):
        if key in options:
            if cluster is None:
                raise ValueError(f"{key} = {options[key]}: it needs a cluster, for example cluster=8xH100-80GB")
            try:
                values[key] = float(options[key])
            except ValueError:
                values[key] = -1.0
            if not 0 < values[key] <= most:
                form = (
                    "a share of the peak in (0, 1]" if key == "mfu" else "USD per GPU and hour, above 0 and at most 1e6"
                )
                raise ValueError(f"{key} = {options[key]!r}: give {form}")
    return Assumed(**values)


def on(cluster: Cluster, config: RunConfig) -> tuple[RunConfig, str]:
    """The configuration with one worker per GPU of ``cluster``, and a note if that changes train.workers."""
    train = config.train
    if cluster.gpus == train.workers:
        return config, ""
    shared = train.sequence_parallel
    if cluster.gpus % shared or train.global_batch % (cluster.gpus // shared * train.micro_batch):
        by = f" / train.sequence_parallel = {shared}" if shared > 1 else ""
        raise ValueError(
            f"cluster = {cluster}: train.global_batch = {train.global_batch} is no multiple of its {cluster.gpus} GPUs"
            f"{by} x train.micro_batch = {train.micro_batch}; name {train.workers} GPUs, as train.workers, or change "
            "these"
        )
    tree = config.dump(secrets=True)
    tree["train"]["workers"] = cluster.gpus
    note = f"\ntrain.workers is {train.workers}; planned with train.workers={cluster.gpus}, one for each of the GPUs"
    return RunConfig.model_validate(tree), note
