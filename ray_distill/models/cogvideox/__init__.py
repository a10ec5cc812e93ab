"""CogVideoX's family: text to video by diffusers' CogVideoXPipeline.

family         FAMILY: CogVideoX's declaration
network        the denoiser, over one forward of diffusers' transformer: v-prediction becomes a velocity
sequence       attention for ranks that share a clip's tokens
schedule       the noise levels of its variance-preserving training, and the timestep of each level
codec          pixels to latents and back
text           prompts to the field of a caption, padding included
sample         the script of exports: it imports diffusers and torch, nothing of ours, and owes a test that it gives our
               sampler's latents
"""
