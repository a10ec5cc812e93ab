"""LTX-2's family: text or image to video with sound by diffusers' pipelines.

May import: the files beside the folders of families, diffusers, transformers; no other family.
family         FAMILY: LTX-2's declaration
network        the denoiser, over one forward of diffusers' transformer: picture and sound in one packed tensor
sequence       attention for ranks that share a clip's tokens
codec          pixels to the picture's latents and back, and the shape of a clip with its sound
hearing        samples to sound's tokens: the mel spectrogram and the audio VAE
sound          sound's tokens to samples: the audio VAE and the vocoder
image          the first frames of clips, or pictures, to the first latent frame
text           prompts to the two fields of a caption: Gemma 3 and the connectors
sample         the script of exports: it imports diffusers and torch, nothing of ours, and owes a test that it gives our
               sampler's latents

Only LTX-2.0 works: 2.3 and 2.5 have other connectors, vocoders and text encoders.
"""
