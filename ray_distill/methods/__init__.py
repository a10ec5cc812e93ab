"""Methods: one paper per file, found by name. Adding a method is one line here.

Run on workers, and on toy networks in the plan and the tests. A method sees tensors, networks and Rng: no rank, device,
path or engine.
May import: diffusion and types; torch as the only library.
A new method owes four files (CONTRIBUTING.md): a loss in closed form, the gradients of each update, one seed twice.
"""

from __future__ import annotations

from ray_distill.methods.causal_consistency import CausalConsistency
from ray_distill.methods.causal_gan import CausalGAN
from ray_distill.methods.causal_regression import CausalRegression
from ray_distill.methods.causal_warm_start import CausalWarmStart
from ray_distill.methods.dcm import DCM
from ray_distill.methods.dcm_fine import DCMFine
from ray_distill.methods.dmd import DMD
from ray_distill.methods.dmd_phased import PhasedDMD
from ray_distill.methods.flow_matching import FlowMatching
from ray_distill.methods.gan import GAN
from ray_distill.methods.lcm import LCM
from ray_distill.methods.self_forcing import SelfForcing
from ray_distill.methods.teacher_forcing import TeacherForcing
from ray_distill.methods.warm_start import WarmStart
from ray_distill.types import Method

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        CausalConsistency,
        CausalGAN,
        CausalRegression,
        CausalWarmStart,
        DCM,
        DCMFine,
        DMD,
        FlowMatching,
        GAN,
        LCM,
        PhasedDMD,
        SelfForcing,
        TeacherForcing,
        WarmStart,
    )
}
