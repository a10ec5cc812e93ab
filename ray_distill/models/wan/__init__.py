"""Wan's family: text to video by diffusers' WanPipeline.

May import: the files beside the folders of families, diffusers, transformers; no other family.
family         FAMILY: Wan's declaration
network        the denoiser, over one forward of diffusers' transformer
causal         attention by chunks; exports copy it beside the weights of a causal student
sequence       attention for ranks that share a clip's tokens
conditions     image conditions in a call of the network
image          first frames of clips, or pictures, to image conditions
codec          pixels to latents and back
text           prompts to the field of a caption
sample*        the scripts of exports, from text, from an image, and by chunks from either: they import diffusers and
               torch, nothing of ours. A new one owes a test that it gives our sampler's latents
"""
