"""The table of SimpleTuner's keys outside `distillation_config`; docs/simpletuner.md shows it."""

from __future__ import annotations

from collections.abc import Mapping

from ray_distill.simpletuner import networks, optimizer, outputs, training, validation, weights
from ray_distill.simpletuner.dataset import DATA
from ray_distill.simpletuner.idle import idle_keys
from ray_distill.simpletuner.outcome import Key
from ray_distill.simpletuner.rules import no_effect, older_name, to
from ray_distill.simpletuner.values import flag, number, text, whole

checkpoint_interval = to("train.checkpoint_every", kind=whole)
KEYS: Mapping[str, Key] = {
    **DATA,
    "model_family": Key(weights.model_family, "`model.family`"),
    "model_type": Key(networks.model_type, "`lora`: adapters on student and fake score; `full`: all of their weights"),
    "lora_type": Key(networks.lora_type, "`standard` is peft's LoRA; `lycoris` is refused", default="standard"),
    "lora_rank": Key(networks.lora("rank", whole), "`roles.*.lora.rank` of each trained role", default=16),
    "lora_alpha": Key(networks.lora("alpha", number), "`roles.*.lora.alpha`; absent: the rank"),
    "lora_format": Key(
        networks.lora_format,
        "`comfyui`: `model.export_formats: [comfyui_lora]`, the adapter by ComfyUI's names beside diffusers' own",
    ),
    "lycoris_config": Key(networks.lycoris_config, "no effect: it belongs to LyCORIS; the file is not read"),
    "peft_lora_target_modules": Key(networks.targets, "`roles.*.lora.targets` of each trained role"),
    "pretrained_model_name_or_path": Key(
        weights.model, "`model.path`: a local folder, else the hub's cache; nothing is fetched"
    ),
    "model_flavour": Key(
        weights.flavour,
        "`model.path`, where no other is named: Wan 2.1 from text or a picture, Wan 2.2 5B; others are refused by name",
        default=weights.DEFAULT,
    ),
    "revision": Key(weights.revision, "that of `model.path` in the hub's cache"),
    "pretrained_t5_model_name_or_path": Key(
        weights.of_the_model("text encoder and tokenizer"),
        "must be the model's own name: text encoders come from there",
    ),
    "pretrained_vae_model_name_or_path": Key(
        weights.of_the_model("the VAE"), "must be the model's own name: the VAE comes from there"
    ),
    "pretrained_transformer_model_name_or_path": Key(
        weights.transformer, "`roles.*.path`: all roles begin from this pipeline's network"
    ),
    "mixed_precision": Key(networks.mixed_precision, "`roles.*.dtype`; masters and moments are fp32", default="bf16"),
    "base_model_precision": Key(
        networks.precision, "`roles.*.base_precision`: int8 of what is frozen; refused where all weights are trained"
    ),
    "base_model_default_dtype": Key(networks.default_dtype, "no effect: mixed_precision holds for all of a network"),
    "quantize_via": Key(networks.quantize_via, "`cpu`: where weights are quantised, always"),
    "text_encoder_1_precision": Key(networks.text_precision, "`model.text_encoder_precision`"),
    "vae_enable_tiling": Key(to("model.vae_tiling", kind=flag), "`model.vae_tiling`"),
    "attention_mechanism": Key(networks.attention, "`model.attention`, by diffusers' names"),
    "gradient_checkpointing": Key(
        networks.gradient_checkpointing,
        "`roles.*.gradient_checkpointing` of each trained role",
    ),
    "optimizer": Key(optimizer.optimizer, "AdamW with fp32 master weights; others are refused"),
    "optimizer_config": Key(
        optimizer.optimizer_config, f"weight_decay and eps as text: `{optimizer.STUDENT}`; others are refused"
    ),
    "optimizer_beta1": Key(optimizer.betas, f"`{optimizer.STUDENT}.betas`"),
    "optimizer_beta2": Key(optimizer.betas, f"`{optimizer.STUDENT}.betas`"),
    "adam_beta1": Key(optimizer.betas, "the same, after optimizer_beta1"),
    "adam_beta2": Key(optimizer.betas, "the same, after optimizer_beta2"),
    "adam_weight_decay": Key(optimizer.option("weight_decay"), f"`{optimizer.STUDENT}.weight_decay`"),
    "weight_decay": Key(older_name("adam_weight_decay", optimizer.option("weight_decay")), "the same"),
    "adam_epsilon": Key(optimizer.option("eps"), f"`{optimizer.STUDENT}.eps`"),
    "learning_rate": Key(optimizer.learning_rate, f"`{optimizer.STUDENT}.learning_rate`"),
    "lr_scale": Key(optimizer.lr_scale, "true: learning_rate times the global batch"),
    "lr_scale_sqrt": Key(optimizer.lr_scale_sqrt, "beside lr_scale: times the root of the global batch"),
    "lr_scheduler": Key(optimizer.scheduler, f"`{optimizer.STUDENT}.schedule`, counted in the student's own updates"),
    "lr_power": Key(optimizer.power, f"`{optimizer.STUDENT}.power`, with lr_scheduler=polynomial"),
    "lr_end": Key(
        optimizer.lr_end,
        f"`{optimizer.STUDENT}.min_lr_ratio`; absent, cosine_with_min_lr falls to {optimizer.LR_END:g}",
    ),
    "lr_warmup_steps": Key(optimizer.warmup, f"`{optimizer.STUDENT}.warmup_updates`"),
    "max_train_steps": Key(training.train_steps, "`train.steps`; exactly one of this and num_train_epochs is above 0"),
    "num_train_epochs": Key(training.epochs, "`train.steps`, by the number of samples in the data"),
    "strict_epoch_limit": Key(training.epoch_limit, "accepted: max_train_steps or num_train_epochs says how long"),
    "ignore_final_epochs": Key(training.epoch_limit, "the same, by its older name"),
    "num_processes": Key(training.workers, "`train.workers`"),
    "train_batch_size": Key(training.micro_batch, "`train.micro_batch`, and with the workers `train.global_batch`"),
    "gradient_accumulation_steps": Key(training.accumulation, "`train.global_batch`"),
    "max_grad_norm": Key(optimizer.max_grad_norm, f"`{optimizer.STUDENT}.clip_value` or `clip_norm`; 0 is off"),
    "grad_clip_method": Key(optimizer.clip_method, "which of the two, `value` if absent"),
    "use_ema": Key(
        training.use_ema,
        f"`roles.student.ema_decay` = ema_decay, or {training.EMA_DECAY:g}, and `ema_warmup`, as its average begins",
    ),
    "ema_decay": Key(training.of_ema("roles.student.ema_decay", number), "`roles.student.ema_decay`"),
    "ema_update_interval": Key(training.of_ema("roles.student.ema_interval", whole), "`roles.student.ema_interval`"),
    "ema_validation": Key(training.of_ema("evaluate.weights", training.ema_validation), "`evaluate.weights`"),
    "flow_schedule_shift": Key(
        training.flow_shift,
        "`method.flow_shift` or `method.shift`, and `evaluate.teacher_shift`: solver and validations share it",
    ),
    "seed": Key(to("seed", kind=whole), "`seed`, the root of every draw"),
    "output_dir": Key(to("output_dir", kind=text), "`output_dir`; the run's folder lies in it"),
    "checkpoint_step_interval": Key(checkpoint_interval, "`train.checkpoint_every`"),
    "checkpointing_steps": Key(
        older_name("checkpoint_step_interval", checkpoint_interval), "checkpoint_step_interval, by its older name"
    ),
    "checkpoints_total_limit": Key(outputs.keep, "`train.checkpoints_keep`; 0 keeps them all"),
    "resume_from_checkpoint": Key(
        outputs.resume, "`train.resume_from`: `latest`, `none` or a checkpoint's folder", null=True
    ),
    "push_to_hub": Key(outputs.push, "the `publish` section; needs a token before training starts, or `--no-push`"),
    "push_checkpoints_to_hub": Key(outputs.push_checkpoints, "`publish.per_checkpoint`"),
    "hub_model_id": Key(
        outputs.hub_model_id, "`publish.hub_model_id`; the repository is private unless publish.private=false"
    ),
    "model_card_private": Key(outputs.private, "`publish.private`"),
    "report_to": Key(
        outputs.report_to, "MLflow takes the place of every tracker; `none`: `track.uri` is empty", null=True
    ),
    "tracker_project_name": Key(to("track.experiment", kind=text), "`track.experiment`"),
    "tracker_run_name": Key(outputs.run_name, "`name`: MLflow's run, and the run's folder in output_dir"),
    "disable_benchmark": Key(
        validation.benchmark, "`evaluate.baseline`: false samples the teacher once, before training", default=False
    ),
    "webhook_config": Key(outputs.webhook, "`track.webhook`: a file, since its address is a secret"),
    "framerate": Key(to("data.fps"), "`data.fps`: that of samples; clips are taken as they come"),
    "tokenizer_max_length": Key(to("model.max_sequence_length", kind=whole), "`model.max_sequence_length`"),
    "validation_disable": Key(
        validation.disable, "true: `evaluate.every` is none, `evaluate.baseline` and `evaluate.enabled` are false"
    ),
    "validation_on_startup": Key(validation.on_startup, "true: `evaluate.baseline`"),
    "validation_step_interval": Key(validation.interval, "`evaluate.every`, beside the training"),
    "validation_steps": Key(
        older_name("validation_step_interval", validation.interval), "validation_step_interval, by its older name"
    ),
    "validation_num_inference_steps": Key(
        validation.validation_steps, "DMD: the student's own steps; else `method.sampling_steps`"
    ),
    "validation_guidance": Key(validation.guidance, "1.0, which is off; others are refused"),
    "validation_num_video_frames": Key(
        validation.validation_frames, "`evaluate.frames`, the next number that the model makes"
    ),
    "validation_resolution": Key(
        validation.validation_resolution, "`data.width`, `data.height`: those of samples; of several the first"
    ),
    "validation_seed": Key(validation.seeds, "`evaluate.tune_seed` and `evaluate.seeds`"),
    "validation_prompt": Key(validation.validation_prompt, "`evaluate.prompts`"),
    "validation_prompt_library": Key(
        validation.prompt_library, "`evaluate.prompts`: a file of {name: prompt}; `true` is a library of six"
    ),
    "user_prompt_library": Key(validation.prompt_library, "`evaluate.prompts`, too: a file of {name: prompt}"),
    "validation_using_datasets": Key(
        validation.using_datasets,
        "true: captions and first frames of the data, which models that begin from a picture show always; no effect "
        "with others",
    ),
    "validation_negative_prompt": Key(
        to("data.negative_prompt", kind=text), "`data.negative_prompt`, the teacher's guidance included"
    ),
    "prodigy_steps": Key(no_effect("no effect: it belongs to optimizer=prodigy"), "no effect: it belongs to Prodigy"),
    **idle_keys(),
}
