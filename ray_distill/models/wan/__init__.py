"""Wan's family: text to video by diffusers' WanPipeline.

May import: the files beside the folders of families, diffusers, transformers; no other family.
family         FAMILY: what Wan declares
network        the denoiser, over one forward of diffusers' transformer
causal         attention by chunks; it lies beside the weights of an exported causal student
sequence       attention where ranks share a clip's tokens
conditions     what an image adds to a call of the network
image          first frames or pictures to image conditions
codec          pixels to latents and back
text           prompts to the field of a caption
sample*        the scripts of exports, from text, from an image, and by chunks from either: they import diffusers and
               torch, nothing of ours. A new one owes a test that it gives our sampler's latents
"""
