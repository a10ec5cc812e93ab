"""The table of FastVideo's keys; docs/fastvideo.md shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray_distill.fastvideo import data, method, networks, rules, training
from ray_distill.fastvideo.file import Key
from ray_distill.fastvideo.rules import FAKE, STUDENT, idle, only, to
from ray_distill.simpletuner.values import flag, number, text, whole

SHARDING = "ZeRO shards each role on its own: roles.*.zero"
LOSS = "distribution matching weighs no timestep"
CAUSAL = "Self-Forcing: "


def _both(key: str) -> tuple[str, str]:
    return f"{STUDENT}.{key}", f"{FAKE}.{key}"


def causal(rule: Any) -> Any:
    """The rule for Self-Forcing; DMD reads no such key."""
    return lambda key, value, file: (rule if file.causal else idle("DMD makes a clip at once"))(key, value, file)


MODELS: Mapping[str, Key] = {
    "_target_": Key(
        networks.network, "`model.family`: Wan; Self-Forcing's student is the causal class, others are not"
    ),
    "init_from": Key(
        networks.init_from, "the teacher's: `model.path`; another role's, where it differs: `roles.*.path`"
    ),
    "trainable": Key(networks.trainable, "student and critic true, teacher false; else refused"),
    "disable_custom_init_weights": Key(idle("weights come from init_from", True), "no effect"),
    "flow_shift": Key(networks.shift, "the student's: `method.score_shift`, 3 if absent", default=3.0),
    "enable_gradient_checkpointing_type": Key(networks.checkpointing, "`full`: `roles.*.gradient_checkpointing`"),
    "attention_backend": Key(networks.attention, "`roles.*.attention`; sparse ones are refused"),
    "transformer_override_safetensor": Key(networks.override, "`roles.*.path`: one file with the role's network"),
}
METHOD: Mapping[str, Key] = {
    "_target_": Key(method.method, "`method.name`: dmd or self_forcing, and `method.reuse_rollout: true`"),
    "rollout_mode": Key(
        method.rollout_mode, "`method.backward_simulation`; data_latent reads the latents of `data_path`"
    ),
    "generator_update_interval": Key(method.interval, "`method.student_interval`", default=1),
    "real_score_guidance_scale": Key(
        method.guidance, "`method.teacher_guidance` in the form u + s (c - u)", default=1.0
    ),
    "dmd_denoising_steps": Key(method.steps, "`method.timesteps`: training, validation and export share them"),
    "warp_denoising_step": Key(
        method.warp, "`method.warp_denoising_step`, by the student's flow_shift (DMD) or the pipeline's (Self-Forcing)"
    ),
    "min_timestep_ratio": Key(method.ratio, "`method.score_min`; 0 becomes 0.001", default=0.0),
    "max_timestep_ratio": Key(method.ratio, "`method.score_max`; 1 becomes 0.999", default=1.0),
    "fake_score_learning_rate": Key(to(f"{FAKE}.learning_rate"), f"`{FAKE}.learning_rate`"),
    "fake_score_betas": Key(to(f"{FAKE}.betas", kind=rules.betas), f"`{FAKE}.betas`"),
    "fake_score_lr_scheduler": Key(to(f"{FAKE}.schedule", kind=text), f"`{FAKE}.schedule`"),
    **{
        f"cfg_uncond.{name}": Key(method.unconditional, "guidance is against the negative prompt; else refused")
        for name in ("text", "image", "action")
    },
    "cfg_uncond.on_missing": Key(method.unconditional, "no effect: nothing is missing"),
    "chunk_size": Key(
        causal(to("method.num_frame_per_block", kind=whole)), f"{CAUSAL}`method.num_frame_per_block`", default=3
    ),
    "student_sample_type": Key(causal(to("method.rollout", kind=text)), f"{CAUSAL}`method.rollout`", default="sde"),
    "context_noise": Key(causal(to("method.context_noise")), f"{CAUSAL}`method.context_noise`", default=0.0),
    "same_step_across_blocks": Key(
        causal(to("method.same_step_across_blocks", kind=flag)),
        f"{CAUSAL}`method.same_step_across_blocks`, false if absent",
        default=False,
    ),
    "last_step_only": Key(
        causal(to("method.last_step_only", kind=flag)), f"{CAUSAL}`method.last_step_only`", default=False
    ),
    "enable_gradient_in_rollout": Key(causal(method.gradient), f"{CAUSAL}true; else refused"),
    "start_gradient_frame": Key(causal(method.gradient_start), f"{CAUSAL}0; else refused"),
}
TRAINING: Mapping[str, Key] = {
    "distributed.num_gpus": Key(training.workers, "`train.workers`", default=1),
    "distributed.sp_size": Key(to("train.sequence_parallel", kind=whole), "`train.sequence_parallel`"),
    "distributed.tp_size": Key(only("tensors are not split here", 1), "1; else refused"),
    **{
        f"distributed.{name}": Key(idle(SHARDING, *usual), "no effect: ZeRO shards each role (`roles.*.zero`)")
        for name, usual in {
            "hsdp_replicate_dim": (1,),
            "hsdp_shard_dim": (-1, *range(1, 1025)),
            "pin_cpu_memory": (),
            "reshard_after_forward": (True,),
            "fsdp_symmetric_memory": (),
            "fsdp_modules_per_group": (1,),
            "reduce_dtype": ("fp32",),
        }.items()
    },
    "data.data_path": Key(
        data.data_path, "`data.datasets`: the captions of its parquet files, as prompts; with data_latent its latents"
    ),
    "data.preprocessed_data_type": Key(only("text to video is imported", "t2v", "text_only"), "t2v or text_only"),
    "data.train_batch_size": Key(
        training.batch, "`train.micro_batch`, and with GPUs and accumulation `train.global_batch`", 1
    ),
    "data.dataloader_num_workers": Key(idle("Ray Data fetches the rows", *range(1025)), "no effect"),
    "data.training_cfg_rate": Key(to("data.caption_dropout"), "`data.caption_dropout`; DMD warns of it"),
    "data.seed": Key(to("seed", kind=whole), "`seed`, the root of every draw"),
    "data.num_height": Key(to("data.height", kind=whole), "`data.height`"),
    "data.num_width": Key(to("data.width", kind=whole), "`data.width`"),
    "data.num_latent_t": Key(training.latents, "`data.frames` = 4 (n - 1) + 1"),
    "data.num_frames": Key(training.frames, "`data.frames`, where num_latent_t is absent"),
    "optimizer.learning_rate": Key(to(f"{STUDENT}.learning_rate"), f"`{STUDENT}.learning_rate`"),
    "optimizer.betas": Key(to(f"{STUDENT}.betas", kind=rules.betas), f"`{STUDENT}.betas`", default=[0.9, 0.999]),
    "optimizer.weight_decay": Key(
        to(*_both("weight_decay")), "`roles.*.optimizer.weight_decay`, 0 if absent", default=0.0
    ),
    "optimizer.lr_scheduler": Key(to(f"{STUDENT}.schedule", kind=text), f"`{STUDENT}.schedule`"),
    "optimizer.lr_warmup_steps": Key(
        training.warmup, "`roles.*.optimizer.warmup_updates`; no effect under the schedule constant, as in FastVideo"
    ),
    "optimizer.lr_num_cycles": Key(only("a schedule has no cycles here", 0, 1), "0 or 1; else refused"),
    "optimizer.lr_power": Key(training.polynomial, f"`{STUDENT}.power`, for the schedule polynomial"),
    "optimizer.min_lr_ratio": Key(
        training.least_rate, "`roles.*.optimizer.min_lr_ratio`, for the schedule cosine_with_min_lr", default=0.5
    ),
    "optimizer.fused": Key(idle("torch's own default", True), "no effect"),
    "loop.max_train_steps": Key(to("train.steps", kind=whole), "`train.steps`"),
    "loop.gradient_accumulation_steps": Key(idle("see data.train_batch_size", *range(1, 1025)), "`train.global_batch`"),
    "checkpoint.output_dir": Key(training.output, "`output_dir` and `name`: the folder's parent, and its own name"),
    "checkpoint.resume_from_checkpoint": Key(training.resume, "empty; FastVideo's checkpoints are refused"),
    "checkpoint.training_state_checkpointing_steps": Key(
        training.every, "`train.checkpoint_every`; 0: the last state alone"
    ),
    "checkpoint.checkpoints_total_limit": Key(training.keep, "`train.checkpoints_keep`; 0 keeps them all"),
    "tracker.trackers": Key(
        idle("MLflow takes the place of every tracker: track.uri"), "no effect: MLflow takes its place"
    ),
    "tracker.entity": Key(idle("MLflow has no entities"), "no effect"),
    "tracker.project_name": Key(to("track.experiment", kind=text), "`track.experiment`"),
    "tracker.run_name": Key(training.run_name, "`name`: MLflow's run, and the run's folder"),
    "vsa.sparsity": Key(only("sparse attention is not imported", 0, 0.0), "0; else refused"),
    "vsa.cache_tile_buf": Key(idle("no sparse attention"), "no effect"),
    "model.weighting_scheme": Key(idle(LOSS, "uniform"), "no effect"),
    "model.logit_mean": Key(idle(LOSS), "no effect"),
    "model.logit_std": Key(idle(LOSS, 1, 1.0), "no effect"),
    "model.mode_scale": Key(idle(LOSS, 1, 1.0), "no effect"),
    "model.precondition_outputs": Key(idle(LOSS), "no effect"),
    "model.moba_config": Key(only("sparse attention is not imported"), "empty; else refused"),
    "model.enable_gradient_checkpointing_type": Key(networks.checkpointing, "`full`: of student and fake score"),
    "model.enable_torch_compile": Key(networks.compiled, "`roles.*.compile` of student and fake score"),
    "dit_precision": Key(networks.precision, "`roles.*.dtype: bfloat16`; masters are fp32", default="fp32"),
    "model_path": Key(idle("the pipeline is the teacher's init_from"), "no effect"),
}
CALLBACKS: Mapping[str, Key] = {
    "grad_clip.max_grad_norm": Key(
        training.clip, "`roles.*.optimizer.clip_norm` of student and fake score", default=0.0
    ),
    "grad_clip.log_grad_norms": Key(idle("they are always logged", True), "accepted: always"),
    "ema.decay": Key(training.ema, "`roles.student.ema_decay` = decay ^ generator_update_interval"),
    "ema.start_iter": Key(idle("the average begins with the first update"), "no effect"),
    "validation.pipeline_target": Key(rules.accept("the student's own sampler takes its place"), "no effect"),
    "validation.dataset_file": Key(data.prompts, "`evaluate.prompts`: its captions"),
    "validation.every_steps": Key(to("evaluate.every", kind=whole), "`evaluate.every`"),
    "validation.sampling_steps": Key(training.sampled, "the student's own steps; another number has no effect"),
    "validation.guidance_scale": Key(
        idle("the student's weights contain its teacher's guidance", 1, 1.0),
        "no effect: the student is sampled without",
    ),
    "validation.num_frames": Key(to("evaluate.frames", kind=whole), "`evaluate.frames`"),
    "validation.output_dir": Key(idle("samples lie in the run's folder"), "no effect"),
    "validation.sampling_timesteps": Key(training.sampled, "the student's own steps; others have no effect"),
    **{
        f"{name}._target_": Key(training.callback, "its own class; else refused")
        for name in ("grad_clip", "ema", "validation")
    },
}
PIPELINE: Mapping[str, Key] = {
    "flow_shift": Key(to("evaluate.teacher_shift", kind=number), "`evaluate.teacher_shift`, and Self-Forcing's warp"),
    "dit_config.local_attn_size": Key(method.window, f"{CAUSAL}`method.window`, the sink included; -1 is none"),
    "dit_config.sink_size": Key(method.sink, f"{CAUSAL}`method.sink`"),
    "vae_tiling": Key(to("model.vae_tiling", kind=flag), "`model.vae_tiling`: diffusers' tiles, not FastVideo's"),
    **{
        name: Key(idle("the pipeline's folder decides", *usual), "no effect: the pipeline's folder decides")
        for name, usual in {
            "flow_shift_sr": (),
            "embedded_cfg_scale": (6, 6.0),
            "is_causal": (True,),
            "vae_sp": (True,),
            "disable_autocast": (),
        }.items()
    },
}
KEYS: Mapping[str, Key] = {
    **{f"models.{role}.{name}": key for role in ("student", "teacher", "critic") for name, key in MODELS.items()},
    **{f"method.{name}": key for name, key in METHOD.items()},
    **{f"training.{name}": key for name, key in TRAINING.items()},
    **{f"callbacks.{name}": key for name, key in CALLBACKS.items()},
    **{f"pipeline.{name}": key for name, key in PIPELINE.items()},
}
SECTIONS = {"models.ROLE": MODELS, "method": METHOD, "training": TRAINING, "callbacks": CALLBACKS, "pipeline": PIPELINE}
"""Sections as docs/fastvideo.md shows them."""
