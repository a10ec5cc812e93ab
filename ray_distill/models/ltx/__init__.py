"""LTX-Video's family: text to video by diffusers' LTXPipeline.

network        the denoiser, over one forward of diffusers' transformer
codec          pixels to latents and back
sample         the script of exports: it imports diffusers and torch, nothing of ours, and owes a test that it gives our
               sampler's latents
"""
