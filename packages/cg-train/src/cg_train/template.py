"""The commented configuration that `cg-train template` prints; its values are the defaults."""

TEMPLATE = """\
# Configuration of `cg-train run CONFIG -o DIR`. Values shown are the defaults unless marked; delete what you do not change.
dataset: dataset            # (yours) folder made by cg-data prepare
prior: prior.yaml           # (yours) made by cg-priors fit; needed unless model.mode is backbone

model:                      # see cg-models template
  mode: hybrid              # hybrid: prior + backbone; backbone; prior
  cutoff_angstrom: 10.0
  precision: float32        # float64 needs JAX_ENABLE_X64=1

data:
  temperatures_kelvin: null # for example [320.0]; null: all. A force field is one of a temperature: prefer one
  domains: null             # for example [1abcA00]; null: all
  domain_weights: {}        # for example {1abcA00: 2.0}: drawn twice as often, with replacement
  temperature_weights: {}   # for example {320.0: 2.0}
  edge_cache_gigabytes: 2.0 # memory for edges of frames already seen
  prior_cache_gigabytes: 4.0 # for forces of a frozen prior on all training frames; beyond it the prior goes through the step
  budget_margin: 0.05       # room for edges beyond what sampled frames need
  most_shapes: 4            # of batches, each compiled once: more shapes, less padding
  prefetch_threads: 1
  prefetch_batches: 4

stages:                     # one after the other
  - kind: gradient
    train: backbone         # backbone (prior frozen and subtracted once), prior, both
    optimizer: {kind: adam} # adam, amsgrad, adabelief, yogi, lion, sgd, polyak_sgd, fromage, muon, schedule_free_adam
    learning_rate: 0.002
    schedule:
      kind: warmup_cosine   # warmup_cosine, constant, plateau
      warmup_fraction: 0.05 # share of the stage's steps
      final_fraction: 0.01  # of the learning rate, at the end
    epochs: 20.0            # passes over the training frames
    steps: null             # takes precedence over epochs
    gradient_clip_norm: 10.0 # null: never

loss:
  kind: mse                 # mse, huber
  huber_delta: 10.0         # kcal/mol/A; larger force errors count linearly
  forces_weight: 1.0        # of the mean square error, (kcal/mol/A)^2
  energy_weight: 0.0        # of that of energies per bead, (kcal/mol)^2, where data have them
  stress_weight: 0.0        # of that of stress, (kcal/mol/A^3)^2
  force_error_floor: 1.0    # f, kcal/mol/A: forces of standard error s weigh f^2 / (f^2 + s^2)
  assumed_force_error: 0.0  # s of domains whose data give none

energy_reference:           # energy per bead that a fresh network starts from; used where energies are learned
  use_checkpoint: true      # first: that of the checkpoint a run goes on from
  species: null             # then given ones, for example {ALA: -3.1, GLY: -2.0}, kcal/mol
  solve: false              # then least squares over compositions
  shift: null               # then one for every bead; else the mean

augmentation:
  random_rotation: false
  noise_angstrom: 0.0       # Gaussian noise on positions, with the forces of the noised density
  score_fraction: 0.0       # share of the noise's own score in them

frames_per_batch: 32        # of one step, over all devices together
gradient_accumulation: 1    # parts of a batch, one after the other, to save memory
mixed_precision:
  matmul: float32           # float32, tensorfloat32, bfloat16, float16: operands of matrix products in the training step
  initial_loss_scale: 32768.0 # float16: halved where gradients overflow
  growth_steps: 2000        # float16: doubled after so many steps without
ema_decay: 0.99             # average of the parameters for validation and bundle; null: none
seed: 0

validation:
  every_steps: 200
  max_frames: 2048          # null: all
  early_stopping_patience: null # validations without a new best that end the stage

checkpoints:
  every_steps: 200
  keep: 2                   # newest; the best by validation is kept besides

log_every_steps: 20
trackers:                   # besides metrics.jsonl
  tensorboard: false        # needs cg-train[tensorboard]
  wandb_project: null       # needs cg-train[wandb]; offline unless WANDB_MODE=online
platform: null              # cpu, gpu, tpu: fail unless JAX runs on it
devices: null               # of this process; null: all
parameters: best            # which the bundle holds: best (by validation) or last
"""
