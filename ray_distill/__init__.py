"""ray_distill: distil many-step video diffusion teachers into few-step students on Ray."""

__version__ = "0.1.0"
