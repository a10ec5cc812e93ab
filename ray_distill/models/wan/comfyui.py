"""A workflow of ComfyUI's own nodes that samples an exported Wan student by its recipe, in the format of its API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from ray_distill.models.pipeline import Pipeline
from ray_distill.models.spec import Config

NOTE = (
    "Written by ray_distill from ComfyUI's node definitions; not run in ComfyUI. Copy the exported files into "
    "ComfyUI's models/diffusion_models (original_*) or models/loras, and choose your own text encoder and "
    "VAE. The noise levels are the student's own (ManualSigmas), so that no shift and no scheduler has an effect."
)
SAMPLERS = {"sde": "lcm", "ode": "euler"}
SEEDS = 0, 1_000_000
"""noise_seed of the experts: with one seed the second would draw the first one's fresh noise again."""
NETWORKS = {
    "Wan2.1-T2V-1.3B-Diffusers": ("wan2.1_t2v_1.3B_fp16.safetensors",),
    "Wan2.1-T2V-14B-Diffusers": ("wan2.1_t2v_14B_fp16.safetensors",),
    "Wan2.1-I2V-14B-480P-Diffusers": ("wan2.1_i2v_480p_14B_fp16.safetensors",),
    "Wan2.1-I2V-14B-720P-Diffusers": ("wan2.1_i2v_720p_14B_fp16.safetensors",),
    "Wan2.2-TI2V-5B-Diffusers": ("wan2.2_ti2v_5B_fp16.safetensors",),
    "Wan2.2-T2V-A14B-Diffusers": (
        "wan2.2_t2v_high_noise_14B_fp16.safetensors",
        "wan2.2_t2v_low_noise_14B_fp16.safetensors",
    ),
    "Wan2.2-I2V-A14B-Diffusers": (
        "wan2.2_i2v_high_noise_14B_fp16.safetensors",
        "wan2.2_i2v_low_noise_14B_fp16.safetensors",
    ),
}
"""Published pipeline -> files of its networks, by the names of Comfy-Org's repackaged ones."""
VAES = {16: "wan_2.1_vae.safetensors", 48: "wan2.2_vae.safetensors"}
"""Channels of latents -> the VAE's file, by the same names."""
TEXT, CLIP_VISION = "umt5_xxl_fp8_e4m3fn_scaled.safetensors", "clip_vision_h.safetensors"
Link = list[Any]


class _Graph(dict[str, Any]):
    """Nodes by their number as text."""

    def add(self, kind: str, title: str, **inputs: Any) -> str:
        """Add a node of the class ``kind``; an input is a value, or a link [node, number of its output]."""
        node = str(len(self) + 1)
        self[node] = {"class_type": kind, "inputs": inputs, "_meta": {"title": title}}
        return node


def workflow(
    pipeline: Pipeline, config: Config, recipe: Mapping[str, Any], files: Mapping[str, Sequence[str]]
) -> dict[str, Any] | str:
    """The workflow, or the reason why there is none. ``config`` is the network's configuration, ``pipeline`` the base;
    ``files`` are the exported ones by format."""
    channels = int(config.get("out_channels") or config.get("in_channels", 16))
    if reason := _reason(pipeline, channels, config, recipe):
        return reason
    graph = _Graph()
    vae = graph.add("VAELoader", "VAE: choose your file", vae_name=VAES[channels])
    clip = graph.add("CLIPLoader", "UMT5: choose your file", clip_name=TEXT, type="wan", device="default")
    graph[clip]["_meta"]["note"] = NOTE
    positive, negative = (
        [graph.add("CLIPTextEncode", title, clip=[clip, 0], text=text), 0]
        for title, text in (("Prompt", "a prompt"), ("Negative prompt", recipe["negative_prompt"]))
    )
    positive, negative, latent = _start(graph, vae, positive, negative, config, recipe)
    sampler = graph.add("KSamplerSelect", "Sampler", sampler_name=SAMPLERS[recipe["kind"]])
    networks = _networks(graph, recipe, files)
    for number, (network, levels) in enumerate(zip(networks, _levels(recipe), strict=True)):
        text = ", ".join(f"{level:.8f}" for level in levels)
        sigmas = graph.add("ManualSigmas", "Noise levels of the student", sigmas=text)
        latent = [
            graph.add(
                "SamplerCustom",
                f"{len(levels) - 1} steps",
                model=network,
                add_noise=number == 0,  # the second expert goes on with the noise that the first one has left
                noise_seed=SEEDS[number],
                cfg=float(recipe["guidance_scale"]),
                positive=positive,
                negative=negative,
                sampler=[sampler, 0],
                sigmas=[sigmas, 0],
                latent_image=latent,
            ),
            0,
        ]
    images = graph.add("VAEDecode", "Decode", samples=latent, vae=[vae, 0])
    video = graph.add("CreateVideo", "Video", images=[images, 0], fps=float(recipe["fps"]))
    graph.add("SaveVideo", "Save", video=[video, 0], filename_prefix="video/student", format="auto", codec="auto")
    return dict(graph)


def _reason(pipeline: Pipeline, channels: int, config: Config, recipe: Mapping[str, Any]) -> str:
    """The reason why ComfyUI's nodes cannot sample this student; "" where there is none."""
    if recipe["chunks"]:
        return "a causal student makes a clip chunk by chunk, and ComfyUI's sampler makes it at once"
    if str(pipeline.vae.get("_class_name")) != pipeline.of.parts["vae"] or channels not in VAES:
        return f"ComfyUI has no VAE for this base's latents of {channels} channels"
    if recipe["from_image"] and not config.get("image_dim") and channels == 48:
        return "Wan 2.2 5B from a picture holds its first frame at level 0 by a mask, which was not compared"
    if recipe["timesteps"][0] != 1000:
        first = recipe["timesteps"][0] / 1000
        return f"the student's first level is {first:g}, and ComfyUI would begin there with noise times {first:g}"
    return ""


def _levels(recipe: Mapping[str, Any]) -> list[list[float]]:
    """The noise levels of each expert, each with the level at which it ends; one list where there are no experts."""
    levels = [*(t / 1000 for t in recipe["timesteps"]), 0.0]
    boundary = recipe["boundary_ratio"]
    if boundary is None:
        return [levels]
    first = sum(level >= boundary for level in levels)
    return [levels[: first + 1], levels[first:]]


def _networks(graph: _Graph, recipe: Mapping[str, Any], files: Mapping[str, Sequence[str]]) -> list[Link]:
    """Links to the student's networks: its whole files where there are some, else the published ones with its
    adapters."""
    count = 1 if recipe["boundary_ratio"] is None else 2
    whole = next((names for kind, names in files.items() if kind.startswith("original")), None)
    if whole is not None:
        loaders = [graph.add("UNETLoader", "Student", unet_name=name, weight_dtype="default") for name in whole]
        return [[node, 0] for node in loaders]
    base = PurePosixPath(str(recipe["base"])).name
    names = NETWORKS.get(base, (f"{base}.safetensors", f"{base}_2.safetensors"))[:count]
    adapters = next(iter(files.values()))
    links = []
    for second, name in enumerate(names):
        title = "Published network: choose your file"
        link = [graph.add("UNETLoader", title, unet_name=name, weight_dtype="default"), 0]
        own = next((file for file in adapters if file.endswith("_2.safetensors") == bool(second)), None)
        if own is not None:
            link = [graph.add("LoraLoaderModelOnly", "Student", model=link, lora_name=own, strength_model=1.0), 0]
        links.append(link)
    return links


def _start(
    graph: _Graph, vae: str, positive: Link, negative: Link, config: Config, recipe: Mapping[str, Any]
) -> tuple[Link, Link, Link]:
    """Links to (positive, negative, latents) with which sampling begins."""
    size = {"width": recipe["width"], "height": recipe["height"], "length": recipe["frames"], "batch_size": 1}
    if not recipe["from_image"]:
        wide = int(config.get("out_channels") or 16) == 48
        kind, link = ("Wan22ImageToVideoLatent", {"vae": [vae, 0]}) if wide else ("EmptyHunyuanLatentVideo", {})
        return positive, negative, [graph.add(kind, "Latents", **link, **size), 0]
    image = graph.add("LoadImage", "First frame", image="first_frame.png")
    seen: dict[str, Link] = {}
    if config.get("image_dim"):
        states = graph.add("CLIPVisionLoader", "CLIP: choose your file", clip_name=CLIP_VISION)
        encode = graph.add(
            "CLIPVisionEncode", "Picture for CLIP", clip_vision=[states, 0], image=[image, 0], crop="none"
        )
        seen = {"clip_vision_output": [encode, 0]}
    links = {"positive": positive, "negative": negative, "vae": [vae, 0], "start_image": [image, 0], **seen}
    node = graph.add("WanImageToVideo", "Picture to video", **links, **size)
    return [node, 0], [node, 1], [node, 2]
