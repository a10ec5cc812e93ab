"""SimpleTuner's keys but for those of ``distillation_config``; docs/simpletuner.md shows this table."""

from __future__ import annotations

from collections.abc import Mapping

from ray_distill.config.simpletuner import networks, outputs, training
from ray_distill.config.simpletuner.dataset import DATA
from ray_distill.config.simpletuner.outcome import Key, Outcome, flag, nothing, number, taken, text, to, whole

KEYS: Mapping[str, Key] = {
    **DATA,
    "model_family": Key(networks.model_family, "`model.family`"),
    "model_type": Key(networks.model_type, "`lora`: adapters on student and fake score; `full`: all of their weights"),
    "lora_type": Key(networks.lora_type, "`standard` is peft's LoRA; `lycoris` is refused", default="standard"),
    "lora_rank": Key(networks.lora("rank", whole), "`roles.*.lora.rank` of each trained role", default=16),
    "lora_alpha": Key(networks.lora("alpha", number), "`roles.*.lora.alpha`; absent: the rank"),
    "lycoris_config": Key(networks.lycoris_config, "no effect: it belongs to LyCORIS; the file is not read"),
    "pretrained_model_name_or_path": Key(
        networks.model, "`model.path`: a local folder, else the hub's cache; nothing is fetched"
    ),
    "pretrained_t5_model_name_or_path": Key(
        networks.text_encoder, "must be the model's own name: text encoders come from there"
    ),
    "mixed_precision": Key(networks.mixed_precision, "`roles.*.dtype`; masters and moments are fp32", default="bf16"),
    "base_model_precision": Key(
        networks.precision, "`roles.*.base_precision`: int8 of what is frozen; refused where all weights are trained"
    ),
    "quantize_via": Key(networks.quantize_via, "`cpu`: where weights are quantised, always"),
    "text_encoder_1_precision": Key(networks.text_precision, "`model.text_encoder_precision`"),
    "attention_mechanism": Key(networks.attention, "`model.attention`, by diffusers' names"),
    "gradient_checkpointing": Key(
        networks.gradient_checkpointing,
        "`roles.*.gradient_checkpointing` of each trained role",
    ),
    "optimizer": Key(training.optimizer, "AdamW with fp32 master weights; others are refused"),
    "optimizer_beta1": Key(training.betas, f"`{training.STUDENT}.betas`"),
    "optimizer_beta2": Key(training.betas, f"`{training.STUDENT}.betas`"),
    "learning_rate": Key(to(f"{training.STUDENT}.learning_rate"), f"`{training.STUDENT}.learning_rate`"),
    "lr_scheduler": Key(training.scheduler, f"`{training.STUDENT}.schedule`, counted in the student's own updates"),
    "lr_end": Key(
        training.lr_end, f"`{training.STUDENT}.min_lr_ratio`; absent, cosine_with_min_lr falls to {training.LR_END:g}"
    ),
    "lr_warmup_steps": Key(training.warmup, f"`{training.STUDENT}.warmup_updates`"),
    "max_train_steps": Key(training.train_steps, "`train.steps`; exactly one of this and num_train_epochs is above 0"),
    "num_train_epochs": Key(training.epochs, "`train.steps`, by the number of samples in the data"),
    "train_batch_size": Key(training.micro_batch, "`train.micro_batch`, and with the workers `train.global_batch`"),
    "gradient_accumulation_steps": Key(training.accumulation, "`train.global_batch`"),
    "max_grad_norm": Key(training.max_grad_norm, f"`{training.STUDENT}.clip_value` or `clip_norm`; 0 is off"),
    "grad_clip_method": Key(training.clip_method, "which of the two, `value` if absent"),
    "use_ema": Key(training.use_ema, f"`roles.student.ema_decay` = ema_decay, or {training.EMA_DECAY:g}"),
    "ema_decay": Key(training.of_ema("roles.student.ema_decay", number), "`roles.student.ema_decay`"),
    "ema_update_interval": Key(training.of_ema("roles.student.ema_interval", whole), "`roles.student.ema_interval`"),
    "ema_validation": Key(training.of_ema("evaluate.weights", training.ema_validation), "`evaluate.weights`"),
    "flow_schedule_shift": Key(
        training.flow_shift,
        "`method.flow_shift` or `method.shift`, and `evaluate.teacher_shift`: solver and validations share it",
    ),
    "seed": Key(to("seed", kind=whole), "`seed`, the root of every draw"),
    "output_dir": Key(to("output_dir", kind=text), "`output_dir`; the run's folder lies in it"),
    "checkpoint_step_interval": Key(to("train.checkpoint_every", kind=whole), "`train.checkpoint_every`"),
    "checkpoints_total_limit": Key(to("train.checkpoints_keep", kind=whole), "`train.checkpoints_keep`"),
    "resume_from_checkpoint": Key(outputs.resume, "`train.resume_from`: `latest`, `none` or a checkpoint's folder"),
    "push_to_hub": Key(outputs.push, "the `publish` section; needs a token before training starts, or `--no-push`"),
    "push_checkpoints_to_hub": Key(outputs.push_checkpoints, "`publish.per_checkpoint`"),
    "hub_model_id": Key(
        outputs.hub_model_id, "`publish.hub_model_id`; the repository is private unless publish.private=false"
    ),
    "report_to": Key(outputs.report_to, "MLflow takes the place of every tracker; `none`: `track.uri` is empty"),
    "tracker_project_name": Key(to("track.experiment", kind=text), "`track.experiment`"),
    "tracker_run_name": Key(outputs.run_name, "`name`: MLflow's run, and the run's folder in output_dir"),
    "disable_benchmark": Key(
        lambda value, file: Outcome({"evaluate.baseline": not flag(value)}),
        "`evaluate.baseline`: false samples the teacher once, before training",
        default=False,
    ),
    "webhook_config": Key(outputs.webhook, "`track.webhook`: a file, since its address is a secret"),
    "validation_step_interval": Key(
        lambda value, file: Outcome({"evaluate.every": whole(value) or None}), "`evaluate.every`, beside the training"
    ),
    "validation_num_inference_steps": Key(
        outputs.validation_steps, "DMD: the student's own steps; else `method.sampling_steps`"
    ),
    "validation_guidance": Key(outputs.guidance, "1.0, which is off; others are refused"),
    "validation_num_video_frames": Key(outputs.validation_frames, "`evaluate.frames`, the next 4k+1"),
    "validation_resolution": Key(outputs.validation_resolution, "`data.width`, `data.height`: those of samples"),
    "validation_seed": Key(outputs.seeds, "`evaluate.tune_seed` and `evaluate.seeds`"),
    "validation_prompt": Key(outputs.validation_prompt, "`evaluate.prompts`"),
    "validation_prompt_library": Key(
        outputs.prompt_library, "`evaluate.prompts`: a file of {name: prompt}; `true` is a library of six"
    ),
    "validation_negative_prompt": Key(
        to("data.negative_prompt", kind=text), "`data.negative_prompt`, the teacher's guidance included"
    ),
    "ignore_final_epochs": Key(taken("train.steps alone says how long"), "no effect: steps alone say how long"),
    "prodigy_steps": Key(nothing("no effect: it belongs to optimizer=prodigy"), "no effect: it belongs to Prodigy"),
}
