"""The trainer's configuration: what is learned from which data, in which stages, and what is written when."""

from typing import Annotated, Any, Literal

import pydantic

from cg_data.configuration import Configuration
from cg_models.config import ModelConfig

Positive = Annotated[int, pydantic.Field(ge=1)]
Rate = Annotated[float, pydantic.Field(gt=0)]
Decay = Annotated[float, pydantic.Field(ge=0, lt=1)]


class OptimizerBase(Configuration):
    """What every optimizer shares; the learning rate belongs to the stage."""

    weight_decay: float = pydantic.Field(default=0.0, ge=0)
    """Decoupled decay of weight matrices, per unit of learning rate; scales, offsets and priors never decay."""


class Adam(OptimizerBase):
    """Adam; with `weight_decay` it is AdamW."""

    kind: Literal["adam"] = "adam"
    b1: Decay = 0.9
    b2: Decay = 0.999
    eps: Rate = 1e-8


class AmsGrad(OptimizerBase):
    """Adam whose second moment never decreases."""

    kind: Literal["amsgrad"] = "amsgrad"
    b1: Decay = 0.9
    b2: Decay = 0.999
    eps: Rate = 1e-8


class AdaBelief(OptimizerBase):
    """Adam with the variance of the gradient about its mean."""

    kind: Literal["adabelief"] = "adabelief"
    b1: Decay = 0.9
    b2: Decay = 0.999
    eps: Rate = 1e-12


class Yogi(OptimizerBase):
    """Adam with an additive second moment."""

    kind: Literal["yogi"] = "yogi"
    b1: Decay = 0.9
    b2: Decay = 0.999
    eps: Rate = 1e-3


class Lion(OptimizerBase):
    """The sign of an interpolated momentum; wants a learning rate 3 to 10 times below Adam's."""

    kind: Literal["lion"] = "lion"
    b1: Decay = 0.9
    b2: Decay = 0.99


class Sgd(OptimizerBase):
    """Gradient descent with optional (Nesterov) momentum."""

    kind: Literal["sgd"] = "sgd"
    momentum: Decay = 0.0
    nesterov: bool = False


class PolyakSgd(OptimizerBase):
    """Gradient descent with Polyak's step, loss / |gradient|^2, at most `max_learning_rate`, times the stage's learning rate.

    The gradient is not clipped: the step would be longer.
    """

    kind: Literal["polyak_sgd"] = "polyak_sgd"
    max_learning_rate: Rate = 1.0
    f_min: float = 0.0


class Fromage(OptimizerBase):
    """Steps relative to the norm of each array of parameters."""

    kind: Literal["fromage"] = "fromage"
    min_norm: Rate = 1e-6


class Muon(OptimizerBase):
    """Orthogonalised momentum for matrices, Adam for the rest."""

    kind: Literal["muon"] = "muon"
    beta: Decay = 0.95
    adam_b1: Decay = 0.9
    adam_b2: Decay = 0.999


class ScheduleFreeAdam(OptimizerBase):
    """Schedule-free Adam; use the constant schedule. Validation and bundle take the averaged parameters."""

    kind: Literal["schedule_free_adam"] = "schedule_free_adam"
    b1: Decay = 0.9
    b2: Decay = 0.999
    eps: Rate = 1e-8


OptimizerConfig = Annotated[
    Adam | AmsGrad | AdaBelief | Yogi | Lion | Sgd | PolyakSgd | Fromage | Muon | ScheduleFreeAdam, pydantic.Field(discriminator="kind")
]


class WarmupCosine(Configuration):
    """Linear rise to the learning rate, then half a cosine down to `final_fraction` of it at the end of the stage."""

    kind: Literal["warmup_cosine"] = "warmup_cosine"
    warmup_fraction: float = pydantic.Field(default=0.05, ge=0, le=1)
    """Share of the stage's steps that rise."""
    final_fraction: float = pydantic.Field(default=0.01, ge=0, le=1)


class Constant(Configuration):
    """The learning rate, after an optional linear rise."""

    kind: Literal["constant"] = "constant"
    warmup_fraction: float = pydantic.Field(default=0.0, ge=0, le=1)


class Plateau(Configuration):
    """The learning rate times `factor` whenever `patience` validations brought no improvement."""

    kind: Literal["plateau"] = "plateau"
    warmup_fraction: float = pydantic.Field(default=0.0, ge=0, le=1)
    factor: float = pydantic.Field(default=0.5, gt=0, lt=1)
    patience: Positive = 5
    minimum_fraction: float = pydantic.Field(default=0.001, ge=0, le=1)


ScheduleConfig = Annotated[WarmupCosine | Constant | Plateau, pydantic.Field(discriminator="kind")]


class StageConfig(Configuration):
    """One stage of training by mini-batches; optimizer state and schedule start anew with each stage."""

    kind: Literal["gradient"] = "gradient"
    train: Literal["backbone", "prior", "both"] = "backbone"
    """Which parameters move. A frozen prior is subtracted from the forces once, before the stage, where memory allows it."""
    optimizer: OptimizerConfig = Adam()
    learning_rate: Rate = 2e-3
    schedule: ScheduleConfig = WarmupCosine()
    epochs: Annotated[float, pydantic.Field(gt=0)] | None = 20
    """Passes over the training frames; `steps` takes precedence."""
    steps: Positive | None = None
    gradient_clip_norm: Rate | None = 10.0
    """The gradient's global norm is scaled down to this; the loss is in (kcal/mol/angstrom)^2. null: never."""


class LbfgsStage(Configuration):
    """Full-batch L-BFGS on a fixed set of training frames: pre-training of the prior's parameters."""

    kind: Literal["lbfgs"]
    train: Literal["backbone", "prior", "both"] = "prior"
    n_frames: Positive = 256
    """Frames, spread evenly over the training frames, whose force error is minimised."""
    min_steps: Annotated[int, pydantic.Field(ge=0)] = 10
    max_steps: Positive = 200
    gradient_norm: Rate = 1e-4
    """After `min_steps`, stop once the gradient's norm is below this."""
    memory: Positive = 10


def _stage_kind(value: Any) -> str:
    return str(value.get("kind", "gradient") if isinstance(value, dict) else getattr(value, "kind", "gradient"))


AnyStage = Annotated[
    Annotated[StageConfig, pydantic.Tag("gradient")] | Annotated[LbfgsStage, pydantic.Tag("lbfgs")],
    pydantic.Discriminator(_stage_kind),
]


class LossConfig(Configuration):
    """A sum of terms, each a weighted mean over the labels of the whole batch: forces, and where data have them energies and stress.

    A frame's weight in the data (`weight`) multiplies its labels' in every term.
    """

    kind: Literal["mse", "huber"] = "mse"
    huber_delta: Rate = 10.0
    """kcal/mol/angstrom; force errors beyond it count linearly. Energies and stress are always squared."""
    forces_weight: float = pydantic.Field(default=1.0, ge=0)
    """Of the mean over components, (kcal/mol/angstrom)^2."""
    energy_weight: float = pydantic.Field(default=0.0, ge=0)
    """Of the mean over frames of (energy error per bead)^2, (kcal/mol)^2."""
    stress_weight: float = pydantic.Field(default=0.0, ge=0)
    """Of the mean over components, (kcal/mol/angstrom^3)^2."""
    force_error_floor: Rate = 1.0
    """f, kcal/mol/angstrom: a bead's forces of standard error s weigh f^2 / (f^2 + s^2), inverse variance with a floor under it."""
    assumed_force_error: float = pydantic.Field(default=0.0, ge=0)
    """s of domains whose data give none, kcal/mol/angstrom: for single frames beside averaged ones."""


class EnergyReferenceConfig(Configuration):
    """What an energy per bead of each species starts from, kcal/mol, where energies are learned; the first that is given counts.

    Order: a checkpoint's, `species`, `solve`, `shift`, the mean energy per bead of the training frames.
    """

    use_checkpoint: bool = True
    """Keep the reference of the checkpoint that a run goes on from."""
    species: dict[str, float] | None = None
    """Energy of each species by its name; all that occur must be given."""
    solve: bool = False
    """Least squares over the frames' compositions; of several solutions the one of least norm."""
    shift: float | None = None
    """One energy for every bead."""


class MixedPrecisionConfig(Configuration):
    """The arithmetic of matrix products in the training step; geometry, sums, energies and parameters stay as they are."""

    matmul: Literal["float32", "tensorfloat32", "bfloat16", "float16"] = "float32"
    """Operands are rounded to it, products added up in float32; tensorfloat32 on GPUs alone. Validation is always in full precision."""
    initial_loss_scale: Rate = 32768.0
    """float16 only: gradients are computed of the loss times this, which is halved where they overflow."""
    growth_steps: Positive = 2000
    """float16 only: the scale is doubled after so many steps without overflow."""


class AugmentationConfig(Configuration):
    """What is done to training frames before they are learned from."""

    random_rotation: bool = False
    """Turn every frame at random; equivariant models need it only as a check."""
    noise_angstrom: float = pydantic.Field(default=0.0, ge=0)
    """Standard deviation of Gaussian noise on positions; the forces become those of the noised density. 0: none."""
    score_fraction: float = pydantic.Field(default=0.0, ge=0, le=1)
    """Share of the noise's own score in the noised forces; the rest is the force of the frame as it was."""


class ValidationConfig(Configuration):
    """When and on how much the model is validated."""

    every_steps: Positive = 200
    max_frames: Positive | None = 2048
    """At most this many frames, spread evenly over the validation split; null: all."""
    early_stopping_patience: Positive | None = None
    """End the stage after so many validations without a new best."""


class CheckpointConfig(Configuration):
    """When checkpoints are written and how many stay."""

    every_steps: Positive = 200
    keep: Positive = 2
    """The newest ones kept; the best by validation is kept besides."""


class TrackersConfig(Configuration):
    """Where metrics go besides metrics.jsonl; what fails there is a warning and never stops a run."""

    tensorboard: bool = False
    """Event files in the output folder; needs cg-train[tensorboard]."""
    wandb_project: str | None = None
    """A Weights & Biases project; needs cg-train[wandb]. Written offline unless WANDB_MODE=online; send it with `wandb sync`."""


class DataConfig(Configuration):
    """Which frames are learned from, and how they reach the step."""

    temperatures_kelvin: tuple[float, ...] | None = None
    """Only frames at these temperatures; null: all. A force field is one of a temperature: prefer one."""
    domains: tuple[str, ...] | None = None
    """Only these domains; null: all."""
    domain_weights: dict[str, Annotated[float, pydantic.Field(gt=0)]] = pydantic.Field(default_factory=dict)
    """How often frames of a domain are drawn, relative to 1; with any weight, frames are drawn with replacement."""
    temperature_weights: dict[float, Annotated[float, pydantic.Field(gt=0)]] = pydantic.Field(default_factory=dict)
    """The same for frames at a temperature, kelvin."""
    edge_cache_gigabytes: float = pydantic.Field(default=2.0, ge=0)
    """Memory for the edges of frames already seen; beyond it edges are built again each time."""
    prior_cache_gigabytes: float = pydantic.Field(default=4.0, ge=0)
    """Memory of a process for a frozen prior's forces on all training frames; where they need more, the prior goes through the step."""
    budget_margin: float = pydantic.Field(default=0.05, ge=0)
    """Room for edges beyond what the sampled frames need, as a share."""
    most_shapes: Annotated[int, pydantic.Field(ge=1, le=16)] = 4
    """Shapes of batches, at most: with more, less of a batch is padding, and more programs are compiled."""
    prefetch_threads: Annotated[int, pydantic.Field(ge=1, le=64)] = 1
    prefetch_batches: Annotated[int, pydantic.Field(ge=1, le=256)] = 4


class TrainConfig(Configuration):
    """Everything a training run depends on."""

    dataset: str
    """Dataset folder made by cg-data."""
    prior: str | None = None
    """prior.yaml made by cg-priors; needed unless the model's mode is backbone."""
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    stages: Annotated[tuple[AnyStage, ...], pydantic.Field(min_length=1)] = (StageConfig(),)
    loss: LossConfig = LossConfig()
    energy_reference: EnergyReferenceConfig = EnergyReferenceConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    frames_per_batch: Positive = 32
    """Frames of one optimizer step, over all devices together."""
    gradient_accumulation: Positive = 1
    """Parts the batch is cut into, one after the other, to save memory; the numbers do not change."""
    mixed_precision: MixedPrecisionConfig = MixedPrecisionConfig()
    ema_decay: Decay | None = 0.99
    """Exponential moving average of the parameters, used for validation and the bundle; null: none."""
    seed: Annotated[int, pydantic.Field(ge=0, lt=2**32)] = 0
    validation: ValidationConfig = ValidationConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    log_every_steps: Positive = 20
    trackers: TrackersConfig = TrackersConfig()
    platform: Literal["cpu", "gpu", "tpu"] | None = None
    """Fail unless JAX runs on this platform; null: any."""
    devices: Positive | None = None
    """Devices of this process to use; null: all."""
    parameters: Literal["best", "last"] = "best"
    """Which parameters the bundle holds: of the best validation (the last where there is no validation), or the last."""

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> "TrainConfig":
        if self.model.mode != "backbone" and self.prior is None:
            raise ValueError(
                f"model.mode is {self.model.mode!r}, which needs prior: give the path of a prior.yaml, or set model.mode: backbone"
            )
        for index, stage in enumerate(self.stages):
            if self.model.mode == "backbone" and stage.train != "backbone":
                raise ValueError(f"stages.{index}.train is {stage.train!r}, but model.mode 'backbone' has no prior: set it to backbone")
            if self.model.mode == "prior" and stage.train != "prior":
                raise ValueError(f"stages.{index}.train is {stage.train!r}, but model.mode 'prior' has no backbone: set it to prior")
            if isinstance(stage, StageConfig) and stage.steps is None and stage.epochs is None:
                raise ValueError(f"stages.{index}: give epochs or steps")
        loss = self.loss
        if loss.forces_weight == loss.energy_weight == loss.stress_weight == 0:
            raise ValueError("loss: forces_weight, energy_weight and stress_weight are all 0: give one of them weight")
        if self.augmentation.noise_angstrom > 0 and loss.energy_weight + loss.stress_weight > 0:
            raise ValueError(
                "augmentation.noise_angstrom moves beads to where energy and stress are not known: "
                "set it to 0, or loss.energy_weight and loss.stress_weight"
            )
        if self.frames_per_batch < self.gradient_accumulation:
            raise ValueError(f"gradient_accumulation {self.gradient_accumulation} is more than frames_per_batch {self.frames_per_batch}")
        return self
