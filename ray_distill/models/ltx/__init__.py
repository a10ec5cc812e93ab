"""LTX-Video's family: text to video by diffusers' LTXPipeline.

May import: the files beside the folders of families, diffusers, transformers; no other family.
family         FAMILY: LTX-Video's declaration
network        the denoiser, over one forward of diffusers' transformer
sequence       attention for ranks that share a clip's tokens
codec          pixels to latents and back
text           prompts to the field of a caption
sample         the script of exports: it imports diffusers and torch, nothing of ours, and owes a test that it gives our
               sampler's latents
"""
