"""SimpleTuner's keys without an effect here, by reason, and keys that are refused unless they are off."""

from __future__ import annotations

from collections.abc import Mapping

from ray_distill.simpletuner.outcome import Key
from ray_distill.simpletuner.rules import idle, only_off

IDLE: Mapping[str, str] = {
    "Ray Data reads, decodes and encodes, with queues of its own (data.encoders, data.encode_batch)": """
        max_workers image_processing_batch_size write_batch_size read_batch_size enable_multiprocessing
        aspect_bucket_worker_count torch_num_threads aws_max_pool_connections dataloader_prefetch
        dataloader_prefetch_qlen metadata_update_interval text_encoder_batch_size
        conditioning_image_embed_batch_size""",
    "VAE and text encoder have processes of their own, which hold no network of the training": """
        offload_during_startup offload_during_save keep_vae_loaded fully_unload_text_encoder""",
    "the VAE encodes a clip whole or by tiles, in float32": """
        vae_enable_slicing vae_enable_patch_conv vae_enable_temporal_roll vae_dtype""",
    "ZeRO shards each role, and roles.*.zero, offload_parameters and offload_optimizer say where it lies": """
        enable_group_offload group_offload_* enable_model_cpu_offload ramtorch* musubi_* offload_param_path
        optimizer_cpu_offload_method optimizer_offload_gradients optimizer_release_gradients fuse_optimizer
        set_grads_to_none fsdp_* deepspeed_config context_parallel_* accelerator_cache_clear_interval
        unet_attention_slice enable_chunked_feed_forward feed_forward_chunk_size gradient_checkpointing_backend""",
    "every block is recomputed where gradient_checkpointing is true": "gradient_checkpointing_interval",
    "roles.*.compile compiles a network": "dynamo_* validation_torch_compile validation_torch_compile_mode",
    "products of float32 matrices are exact to float32: TF32 is off": "disable_tf32",
    "model.attention says how, for training and samples": "fuse_qkv_projections sageattention_usage sla_config",
    "gradients add up in float32, unless roles.*.gradient_dtype says otherwise": "gradient_precision",
    "Wan has one text encoder": "text_encoder_2_precision text_encoder_3_precision text_encoder_4_precision",
    "the text encoder is not trained": """
        text_encoder_lr text_encoder_limit save_text_encoder freeze_encoder_before freeze_encoder_after
        freeze_encoder_strategy""",
    "the cache is addressed by the content of files and settings, and files are listed anew": """
        skip_file_discovery preserve_data_backend_cache override_dataset_config aspect_bucket_disable_rebuild
        vae_cache_scan_behaviour cache_clear_validation_prompts ignore_missing_files vae_cache_disable
        text_cache_disable text_cache_ondemand""",
    "one cache holds latents and text: data.cache_dir": "cache_dir_text",
    "nothing is downloaded; HF_HUB_CACHE is where the hub's cache lies": "cache_dir",
    "sizes are multiples of what the model takes": "aspect_bucket_alignment",
    "a bucket with few clips is kept and repeated, unless disable_bucket_pruning is false": (
        "allow_dataset_oversubscription"
    ),
    "sources are never deleted: a list names what was passed over": "delete_unwanted_images delete_nsfw_images",
    "the distillation's own losses and levels take the place of the diffusion loss": """
        loss_type huber_schedule huber_c snr_gamma use_soft_min_snr soft_min_snr_sigma_data snr_weight
        rescale_betas_zero_snr masked_loss_probability noise_offset noise_offset_probability offset_noise
        input_perturbation input_perturbation_steps timestep_bias_* disable_segmented_timestep_sampling
        flow_use_uniform_schedule flow_use_beta_schedule flow_beta_schedule_* flow_sigmoid_scale flow_custom_timesteps
        training_scheduler_timestep_spacing""",
    "the student is sampled by its own few steps, without guidance": """
        validation_guidance_real validation_guidance_rescale validation_guidance_skip_*
        validation_no_cfg_until_timestep validation_disable_unconditional validation_noise_scheduler
        inference_scheduler_timestep_spacing""",
    "a validation samples the student alone, one video a prompt, from the seeds of evaluate.seeds": """
        num_validation_images validation_randomize validation_seed_source validation_adapter_* validation_preview
        validation_preview_steps validation_lycoris_strength
        validation_stitch_input_location wan_validation_load_other_stage""",
    "evaluate.metric measures a student": """
        evaluation_type num_eval_images eval_steps_interval eval_epoch_interval eval_timesteps eval_dataset_pooling
        eval_loss_disable eval_dataset_id pretrained_evaluation_model_name_or_path""",
    "no program of the file is run; track.webhook gets the events": """
        validation_method validation_external_script validation_external_background post_upload_script
        post_checkpoint_script""",
    "the hub alone is published to, beside the training, in diffusers' format with this tool's card": """
        push_to_hub_background publishing_config model_card_safe_for_work model_card_note""",
    "each checkpoint is written whole, as checkpoint_step_interval and checkpoints_total_limit say": """
        checkpointing_rolling_steps checkpoints_rolling_total_limit checkpointing_use_tempdir
        delete_invalid_checkpoints""",
    "the average is float32 and sharded with the student": "ema_device ema_cpu_only ema_foreach_disable",
    "metrics and samples go to MLflow, at track.uri": """
        logging_dir tracker_image_layout webhook_reporting_interval enable_watermark print_filenames
        print_sampler_statistics debug_aspect_buckets debug_dataset_loader""",
    "draws depend on seed, step and sample alone, never on a device": "seed_for_each_device",
    "Ray starts the workers: train.workers": """
        num_machines machine_rank main_process_ip main_process_port same_network local_rank accelerate_*""",
    "it belongs to lora_type=lycoris": "init_lokr_norm",
    "it belongs to peft_lora_mode=singlora": "singlora_ramp_up_steps",
    "it belongs to lr_scheduler=cosine_with_restarts": "lr_num_cycles",
    "it belongs to enable_nsfw_check": "nsfw_check_*",
    "it belongs to crepa_enabled": "crepa_*",
    "it belongs to scheduled_sampling_max_step_offset": "scheduled_sampling_*",
    "it belongs to another model family": """
        flux_* sd3_* sdxl_* hidream_* ltx_* sana_* t5_padding pretrained_unet_* pretrained_gemma_* acestep_*
        data_aesthetic_score refiner_training_* unet_* conditioning_multidataset_sampling""",
    "no limit of this tool can be unlocked": "i_know_what_i_am_doing",
}

REFUSED: Mapping[str, str] = {
    "the text encoder is not trained": "train_text_encoder",
    "distillation has no such term": """
        crepa_enabled scheduled_sampling_max_step_offset diff2flow_enabled diff2flow_loss""",
    "no tokens are dropped here": "tread_config",
    "adapters are peft's plain LoRA": "use_dora lora_dropout slider_lora_target",
    "adapters begin at zero here; roles.student.path names another student to begin with": "init_lora",
    "text alone conditions the model here": "controlnet control controlnet_* refiner_training",
    "activations are not quantised": "quantize_activations quantization_config",
    "no classifier looks at the clips here": "enable_nsfw_check",
    "one shift holds for all sizes: flow_schedule_shift": "flow_schedule_auto_shift",
    "the time embedding is that of the weights": "wan_force_2_1_time_embedding",
    "weights are looked for under their usual names": "variant",
    "checkpoints and validations are counted in steps: checkpoint_step_interval, validation_step_interval": (
        "checkpoint_epoch_interval validation_epoch_interval"
    ),
}
USUAL: Mapping[str, tuple[str, str]] = {
    "prediction_type": ("flow_matching", "Wan predicts a velocity"),
    "lora_init_type": ("default", "adapters begin at zero"),
    "peft_lora_mode": ("standard", "adapters are peft's plain LoRA"),
    "layer_freeze_strategy": ("none", "all of a trained role's weights, or its adapters, are trained"),
    "pretrained_transformer_subfolder": ("transformer", "a pipeline's network lies there"),
}
"""Key -> (its only accepted value here, the reason)."""
ANYWAY: Mapping[str, str] = {
    "gradient_checkpointing_interval": "1",
    "gradient_checkpointing_backend": "torch",
    "num_validation_images": "1",
    "validation_method": "simpletuner-local",
    "vae_dtype": "default",
}
"""Values of idle keys that ask for the behaviour here."""


def idle_keys() -> dict[str, Key]:
    """All of these keys with their rules; a name that ends in * stands for all names with this beginning."""
    keys = {name: Key(idle(why, ANYWAY.get(name)), "") for why, names in IDLE.items() for name in names.split()}
    keys |= {name: Key(only_off(why), "") for why, names in REFUSED.items() for name in names.split()}
    return keys | {name: Key(only_off(why, usual), "") for name, (usual, why) in USUAL.items()}
