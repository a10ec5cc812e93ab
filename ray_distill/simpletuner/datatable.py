"""The table of all keys of a dataset; docs/simpletuner.md shows it."""

from __future__ import annotations

from collections.abc import Mapping

from ray_distill.simpletuner import fields
from ray_distill.simpletuner.fields import Field, idle, only, says, sets
from ray_distill.simpletuner.table import parquet
from ray_distill.simpletuner.values import number, text
from ray_distill.simpletuner.video import frames, interval, video

FIELDS: Mapping[str, Field] = {
    "type": Field(fields.store, "`local`; others are refused"),
    "id": Field(sets("id", text), "`id`"),
    "dataset_type": Field(
        fields.kind,
        "`video`, or `prompts` (`caption`) for data-free DMD; caches (`text_embeds`, `image_embeds`, ...) and `eval` "
        "are passed over; `image`, `audio` and `conditioning` are refused",
    ),
    "disabled": Field(says("false: the dataset is used"), "true: the dataset is passed over"),
    "disable": Field(says("false: the dataset is used"), "`disabled`, by its other spelling"),
    "instance_data_dir": Field(
        fields.place, "`videos`: a folder; `manifest`: a .jsonl, .csv or .parquet; `root` beside a table; or `prompts`"
    ),
    "metadata_backend": Field(says("files are listed when the cache is made"), "accepted: nothing is listed before"),
    "parquet": Field(
        parquet,
        "`manifest`, `video_column` and `caption_column`, with caption_strategy=parquet; sizes are those of the files",
    ),
    "caption_strategy": Field(
        fields.captions,
        "`captions`: textfile (`lines`, a caption a line), filename, instanceprompt, or a manifest's column",
    ),
    "disable_multiline_split": Field(fields.whole_sidecar, "true: a sidecar of several lines is one caption"),
    "instance_prompt": Field(says("see caption_strategy"), "`caption`, with caption_strategy=instanceprompt"),
    "only_instance_prompt": Field(fields.only_prompt, "true: `caption` = instance_prompt"),
    "prepend_instance_prompt": Field(fields.prepend, "false; true is refused"),
    "cache_dir_vae": Field(
        fields.cache, "`data.cache_dir`: latents and text of all datasets; of several datasets the first's"
    ),
    "cache_dir": Field(fields.cache, "the same; cache_dir_vae goes before it"),
    "num_frames": Field(frames, "`frames`, the number at or below it that the model takes"),
    "frame_interval": Field(interval, "`stride`: each N-th frame"),
    "video": Field(
        video,
        "num_frames and frame_interval, as most files nest them; min_frames: a file needs the frames of its clip; "
        "max_frames: no effect; bucket_strategy: clips of one size and length share a bucket; is_i2v: as the "
        "model begins, from text or from a clip's first frame; of Wan 2.2 5B and LTX-2 `model.from_image`",
    ),
    "resolution": Field(fields.resolution, "`resolution`: about its square of pixels"),
    "resolution_type": Field(fields.resolution, "`pixel_area`, or `area` in megapixels; `pixel` is refused"),
    "minimum_image_size": Field(
        fields.smallest, "`minimum_image_size`: least area, as the edge of a square, or in megapixels"
    ),
    "maximum_image_size": Field(fields.largest, "no effect: a picture is scaled before it is cropped"),
    "target_downsample_size": Field(fields.largest, "no effect: a picture is scaled before it is cropped"),
    "minimum_aspect_ratio": Field(sets("minimum_aspect_ratio", number), "`minimum_aspect_ratio`: width / height"),
    "maximum_aspect_ratio": Field(sets("maximum_aspect_ratio", number), "`maximum_aspect_ratio`"),
    "crop": Field(fields.crop, "`crop`, false if absent; true with crop_aspect=square, its default, is a fixed square"),
    "crop_aspect": Field(fields.crop_aspect, "`square` or `preserve`, where crop is true"),
    "crop_style": Field(fields.crop_style, "`center`, always"),
    "crop_aspect_buckets": Field(idle("they belong to crop_aspect=closest"), "no effect: crop_aspect=closest's"),
    "repeats": Field(sets("repeats", fields.repeats), "`repeats`: extra passes in an epoch"),
    "probability": Field(
        sets("probability", fields.probability),
        "its factor on how often a clip is seen: folded into `repeats`; with data_backend_sampling=uniform "
        "`probability`, its share of the samples",
    ),
}

IDLE: Mapping[str, str] = {
    "a picture is not enlarged but for its bucket": "max_upscale_threshold",
    "files of the cache are called by their content": "hash_filenames shorten_filenames",
    "the cache is addressed by the content of files and settings, and files are listed anew": """
        preserve_data_backend_cache skip_file_discovery vae_cache_clear_each_epoch vae_cache_disable scan_for_errors
        vae_cache_ondemand""",
    "Ray Data reads, decodes and encodes, with queues of its own": """
        write_batch_size metadata_update_interval text_encoder_batch_size conditioning_image_embed_batch_size
        vae_batch_size""",
    "one cache holds the latents and text of all datasets": """
        text_embeds image_embeds conditioning_image_embeds cache_dir_conditioning_image_embeds""",
    "the cache is always zstd": "compress_cache",
    "validations show the configuration's prompts, or captions of all datasets": "disable_validation",
    "sources are never deleted: a list names what was passed over": """
        delete_unwanted_images delete_problematic_images delete_nsfw_images""",
    "a method draws its own levels": "timestep_sampling_offset",
    "sound is not trained": "audio",
    "it belongs to text_embeds": "default",
    "it belongs to another kind of storage": "csv_* aws_* huggingface_* dataset_name split webshart source metadata",
    "it does nothing in SimpleTuner, too": "ignore_epochs",
}
REFUSED: Mapping[str, str] = {
    "text alone conditions the model here": """
        conditioning conditioning_data conditioning_type conditioning_config s2v_datasets""",
    "it belongs to a dataset that conditions another": "source_dataset_id",
    "entities are not marked in a clip here": "grounding",
    "tags of a caption are not shuffled here": "caption_shuffle",
    "all clips of a dataset are taken; name a smaller folder": "max_num_samples",
    "all datasets are mixed from the first step to the last": """
        end_epoch end_step disable_after_epoch_step""",
    "LyCORIS is not supported, and no other adapter has such data": "is_regularisation_data is_regularization_data",
    "adapters are peft's plain LoRA": "slider_strength",
}


def all_fields() -> dict[str, Field]:
    """All fields: those above, keys without an effect, and keys that are refused unless they are off."""
    fields = dict(FIELDS)
    fields |= {name: Field(idle(why), "") for why, names in IDLE.items() for name in names.split()}
    fields |= {name: Field(only(why), "") for why, names in REFUSED.items() for name in names.split()}
    begin = "all datasets are mixed from the first step to the last"
    return fields | {name: Field(only(begin, "1"), "") for name in ("start_epoch", "start_step")}
