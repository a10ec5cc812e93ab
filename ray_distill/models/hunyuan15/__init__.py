"""HunyuanVideo 1.5's family: text or image to video by diffusers' pipelines.

family         FAMILY: HunyuanVideo 1.5's declaration
network        the denoiser, over one forward of diffusers' transformer, and that forward without data
sequence       attention for ranks that share a clip's tokens
codec          pixels to latents and back
image          pictures to the fields of a clip: their latents, and SigLIP's states
text           prompts to the fields of a caption: Qwen2.5-VL's states, and ByT5's of quoted words
sample         the script of exports: it imports diffusers and torch, nothing of ours, and owes a test that it gives our
               sampler's latents
"""
