"""The shared nouns: Batch, Denoiser, Method, Update, Rng, Sampler, Placement; no logic.

Latents are ``[B, C, T, H, W]``; ``sigma`` is the noise level in [0, 1] with 1 = pure noise;
``x_t = (1 - sigma) x_0 + sigma eps`` and ``velocity = eps - x_0``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

from torch import Tensor

Role = str
STUDENT: Role = "student"
TEACHER: Role = "teacher"
FAKE_SCORE: Role = "fake_score"
STUDENT_EMA: Role = "student_ema"
DISCRIMINATOR: Role = "discriminator"
STUDENT_LOW: Role = "student_low"
TEACHER_LOW: Role = "teacher_low"
FAKE_SCORE_LOW: Role = "fake_score_low"
LOW: frozenset[Role] = frozenset({STUDENT_LOW, TEACHER_LOW, FAKE_SCORE_LOW})
"""Roles of the expert of low noise: in a pipeline of two experts they begin at its transformer_2."""


@dataclass(frozen=True)
class Average:
    """A role whose weights are the fp32 average of those of the trained role ``of``: e <- d e + (1 - d) p after each of
    its successful updates. It is held as that role is, and never receives a gradient."""

    of: Role
    decay: float


@dataclass(frozen=True)
class Start:
    """What the trained role ``of`` began with. Sampling alone needs these weights: training holds no such network."""

    of: Role


Need = Literal["trained", "frozen"] | Average | Start
"""What a method asks of a role. Full or LoRA, ZeRO stage and precision are RunConfig's affair."""

Cond = Mapping[str, Tensor]
"""Conditioning by name, each tensor batch first. Its names are those of a family's fields (``models/spec.py``)."""


@dataclass(frozen=True)
class Prediction:
    """What a Denoiser returns: the velocity ``eps - x_0``, shaped like ``x_t``, and the hidden ``features`` that were
    asked for, [B, tokens, D] each, in the network's own dtype; ``readings``, where these were asked for, too: what the
    network's last layers make of each feature in the place of the last, [B, tokens, D']."""

    velocity: Tensor
    features: tuple[Tensor, ...] = ()
    readings: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Window:
    """What a causal network sees of a long clip: at most ``frames`` latent frames, of which the first ``sink`` are the
    clip's first and the others the latest, its own chunk included. They stand at the positions 0, 1, ... in this order,
    so that a clip may have any length."""

    frames: int
    sink: int = 0


@dataclass
class Cache:
    """What a causal network keeps of the chunks before, one a rollout: how many latent ``frames`` there were, and for
    each chunk within the ``window``, by its first frame and its end, the keys and values of every layer."""

    frames: int = 0
    chunks: dict[tuple[int, int], tuple[tuple[Tensor, Tensor], ...]] = field(default_factory=dict)
    window: Window | None = None


@dataclass(frozen=True, eq=False)
class History:
    """Teacher forcing: the past that chunks see, ``x`` [B, C, T, H, W] at the levels ``sigma`` [B, T], 0 for clean."""

    x: Tensor
    sigma: Tensor


class Denoiser(Protocol):
    """A network behind its adapter: prediction type, layout and timestep scale are settled inside."""

    def __call__(
        self,
        x_t: Tensor,
        sigma: Tensor,
        cond: Cond,
        *,
        chunks: Sequence[int] = (),
        cache: Cache | None = None,
        remember: bool = False,
        window: Window | None = None,
        history: History | None = None,
        features: Sequence[int] = (),
        read: bool = False,
    ) -> Prediction:
        """``x_t`` [B, C, T, H, W]; ``sigma`` [B] in [0, 1], or [B, T] where frames differ. ``features`` name
        the transformer blocks, from 0, whose outputs are returned, too, and ``read`` asks for their readings;
        gradient flows through these as well.

        A causal call names what a frame sees. ``chunks``, lengths that add up to T: itself and the chunks before it
        (none given: all T frames), within the ``window``. ``cache``: the chunks in it, too, within its own window; x_t
        is what follows them. ``remember`` adds x_t to the cache afterwards, with its graph where autograd is on.
        ``history``: in the place of the chunks of x_t before its own a chunk sees those of the history, with gradient.
        """
        ...


class Discriminator(Protocol):
    """Small heads behind their adapter; what stands in ``Networks`` under a role that a method names in ``heads``."""

    @property
    def blocks(self) -> tuple[int, ...]:
        """The ``features`` to ask the other role for."""
        ...

    def __call__(self, features: Sequence[Tensor]) -> Tensor:
        """Logits [B, heads, tokens] in fp32, high for real, of features [B, tokens, D], one a head."""
        ...


Networks = Mapping[Role, Denoiser]


@dataclass(frozen=True)
class Heads:
    """A role that is no transformer: one small head on each of some blocks of the role ``of``, made anew for a run.

    ``blocks`` chooses them, numbered from 0, by how many there are.
    """

    of: Role
    blocks: Callable[[int], Sequence[int]]


@dataclass(frozen=True)
class Batch:
    """One micro-batch of one rank.

    ``sample_ids`` [B] int64 number the samples of the whole run (step * global batch + position), whatever
    the world size; they, and never the rank, seed each sample's noise. ``x_0`` is None for data-free methods.
    ``states`` [B, K, C, T, H, W] are those of the teacher's trajectory to x_0, where they were prepared.
    ``given`` of the first latent frames are conditions, too: networks give them back, and losses leave them out.
    ``modalities`` are the places along T of each modality that latents pack ("video", "audio"); none: a picture alone.
    """

    sample_ids: Tensor
    latent_shape: tuple[int, int, int, int]
    cond: Cond
    uncond: Cond
    x_0: Tensor | None = None
    states: Tensor | None = None
    given: int = 0
    modalities: Mapping[str, slice] = field(default_factory=dict)


class Rng(Protocol):
    """Randomness without state: every draw is a pure function of (seed, purpose, step, sample or nothing)."""

    def noise(self, purpose: str, sample_ids: Tensor, shape: Sequence[int]) -> Tensor:
        """Standard normal ``[B, *shape]`` fp32 on the device of ``sample_ids``, one stream per sample."""
        ...

    def uniform(self, purpose: str, sample_ids: Tensor) -> Tensor:
        """Uniform ``[B]`` in [0, 1), one stream per sample."""
        ...

    def control(self, purpose: str, high: int) -> int:
        """An integer in [0, high), equal on all ranks: for all that changes the number of forwards."""
        ...


@dataclass(frozen=True)
class LossTerms:
    """A scalar loss (mean over the micro-batch), and what to log by name: detached, a scalar or one value a sample.

    Names are the same on all ranks. A row holds the mean over the global batch, or the smallest, the median or the sum
    where the name ends in ``_min``, ``_median`` or ``_count``. Under a name with a slash NaN means: not this sample.
    """

    loss: Tensor
    logs: Mapping[str, Tensor] = field(default_factory=dict)


Shared = MutableMapping[str, Tensor]
"""What an earlier update of the same step left for a later one (a rollout), per micro-batch."""


@dataclass(frozen=True)
class Pull:
    """``role`` <- decay ``role`` + (1 - decay) ``towards``, tensor by tensor, once ``towards`` was updated. ``key``, in
    the method's configuration, asks for it."""

    role: Role
    towards: Role
    decay: float
    key: str


@dataclass(frozen=True)
class Update:
    """One descent: ``loss`` moves ``role``; every other role is frozen during its backward. ``pulls`` come after."""

    role: Role
    loss: Callable[[Networks, Batch, Rng, Shared], LossTerms]
    pulls: tuple[Pull, ...] = ()


@dataclass(frozen=True)
class Chunks:
    """How a causal student cuts a clip: ``frames`` latent frames are denoised together, the first alone where
    ``independent_first``. A finished chunk is remembered at ``context_timestep`` = 1000 sigma, 0 for clean.
    Without a ``window`` a chunk sees all before it. The first chunk has steps of its own where ``first_timesteps`` are
    given.
    """

    frames: int
    independent_first: bool = False
    context_timestep: float = 0.0
    window: Window | None = None
    first_timesteps: tuple[float, ...] = ()


@dataclass(frozen=True)
class Experts:
    """Two networks share the noise levels: ``high`` predicts at timesteps from ``boundary`` up, ``low`` below it.

    ``low_guidance_scale`` is the guidance of ``low``; None: the sampler's own, as that of ``high`` is."""

    high: Role
    low: Role
    boundary: float
    low_guidance_scale: float | None = None


@dataclass(frozen=True)
class Sampler:
    """A sampling recipe: ``timesteps`` = 1000 sigma, strictly decreasing in (0, 1000]; the last step goes to 0.

    ``kind``: "sde" re-noises x_0 with fresh noise at each step, "ode" is plain Euler.
    ``guidance_scale`` s means u + s (c - u), so 1 is off and costs one evaluation a step instead of two.
    ``chunks`` is for causal networks, which make a clip chunk by chunk. Without ``experts`` one role predicts at all
    steps.
    """

    timesteps: tuple[float, ...]
    kind: Literal["sde", "ode"]
    guidance_scale: float = 1.0
    chunks: Chunks | None = None
    experts: Experts | None = None

    @property
    def nfe(self) -> int:
        """Network evaluations per video. Of a causal network: forwards per frame after the first chunk, counting the
        one that fills the cache."""
        remembered = () if self.chunks is None else (self.chunks.context_timestep,)
        return sum(1 if self.scale(t) == 1.0 else 2 for t in (*self.timesteps, *remembered))

    def scale(self, timestep: float) -> float:
        """The guidance scale of the step at ``timestep``."""
        experts = self.experts
        if experts is None or experts.low_guidance_scale is None or timestep >= experts.boundary:
            return self.guidance_scale
        return experts.low_guidance_scale


@dataclass(frozen=True)
class Stage:
    """A stretch of a run, from the step ``start`` to the start of the next one: training holds ``roles`` alone.

    ``finished``, some of these roles, were trained by an earlier stage and stand still, with the weights that are
    sampled of them."""

    start: int
    roles: tuple[Role, ...]
    finished: tuple[Role, ...] = ()


@dataclass(frozen=True)
class Trajectories:
    """Trajectories of the teacher that a preparation makes: Euler's ``steps`` at ``shift`` with ``guidance`` (standard:
    u + s (c - u)), of which the states at the timesteps ``levels`` are kept."""

    steps: int
    shift: float
    guidance: float
    levels: tuple[float, ...]


class Method(Protocol):
    """A distillation method: a frozen dataclass that is also its own configuration."""

    name: ClassVar[str]

    @property
    def roles(self) -> Mapping[Role, Need]:
        """A class variable, or a property where the configuration says it. An average comes after what it is of."""
        ...

    @property
    def uses_latents(self) -> bool:
        """Whether batches must bring x_0: a class variable, or a property where the configuration says it."""
        ...

    @property
    def with_sound(self) -> bool:
        """Whether it learns clips of picture and sound, each modality by a loss of its own."""
        ...

    @property
    def heads(self) -> Mapping[Role, Heads]:
        """Those of ``roles`` that are heads on another; most methods have none."""
        ...

    @property
    def prepared(self) -> Trajectories | None:
        """The trajectories that it learns from, where these are made before; most methods have none."""
        ...

    @property
    def exits(self) -> Mapping[Role, int]:
        """Roles that know at which of so many steps their samples left the student; most methods have none. Their
        calls name the step under ``exit`` [B] in the conditioning."""
        ...

    def updates(self, step: int) -> tuple[Update, ...]:
        """The descents of this step, in order: a pure function of the step."""
        ...

    @property
    def period(self) -> tuple[int, int]:
        """(first, length): updates repeat every ``length`` steps from step 0 to the step ``first``, and again from
        there on. A class variable, or a property where the configuration says it."""
        ...

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stretches of a run that hold different roles; (): all roles are held from its first step to its last."""
        ...

    @property
    def teachers(self) -> Experts | None:
        """The two teachers that share the noise levels; None: one teacher has them all."""
        ...

    def describe(self) -> str:
        """One line for the head of a run: what is not plain from the keys."""
        ...

    def warnings(self, bf16: bool) -> list[str]:
        """Settings that will not do what they seem to, with a remedy each; ``bf16``: a network computes in that."""
        ...

    def sampler(self) -> Sampler:
        """The recipe that rollout, validation and export share."""
        ...


@dataclass(frozen=True)
class Placement:
    """Position of a worker among ``world``: each ``seq_size`` neighbours share the tokens of the same clips.

    Batches and noise follow ``data_rank``; one process, which ``leads``, speaks for all.
    """

    rank: int
    world: int
    seq_size: int = 1

    @property
    def data_rank(self) -> int:
        return self.rank // self.seq_size

    @property
    def data_size(self) -> int:
        return self.world // self.seq_size

    @property
    def leads(self) -> bool:
        return self.rank == 0
