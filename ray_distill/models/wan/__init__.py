"""Wan's family: text to video by diffusers' WanPipeline.

network        the denoiser, over one forward of diffusers' transformer
causal         attention by chunks; it lies beside the weights of an exported causal student
conditions     what an image adds to a call of the network
image          first frames or pictures to image conditions
codec          pixels to latents and back
sample*        the scripts of exports: they import diffusers and torch, nothing of ours. A new one owes a test that it
               gives our sampler's latents
"""
