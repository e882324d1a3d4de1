"""Mean force of one frame: the atoms are simulated around beads held in place, and the mapped forces averaged.

The mean force on beads R is the average of W f over the ensemble of all-atom configurations with C r = R, for every map W that is
consistent with the beads (C W^T = 1) and gives atoms joined by a rigid bond one weight: minus the gradient of the potential of mean
force (Ciccotti, Kapral and Vanden-Eijnden, ChemPhysChem 6, 1809 (2005); Noid et al., J. Chem. Phys. 128, 244114 (2008)). All such maps
have the same average; the one used has the least variance in the ensemble averaged over, each block of time with the map fitted on
the others.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cg_data.all_atom import NANOMETRE_PER_ANGSTROM, forces_now, import_openmm, new_context
from cg_data.config import SamplingConfig
from cg_data.errors import UserError, require
from cg_data.force_map import LocalProblem, Reduction, local_problem, solve_local_maps, uniform_map

logger = logging.getLogger("cg_data")

N_FOLDS = 5
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)
"""Ridge strengths tried, as shares of the mean variance of a group's force; the one of least held-out variance is used."""
MIN_BLOCKS = 16
GROWTH = 1.5
"""Each time the error is still too large, the average becomes this much longer: few looks keep the stopping from favouring chance."""
MAX_BEAD_SHIFT_ANGSTROM = 1e-3
CONSTRAINT_TOLERANCE = 1e-6


@dataclass(frozen=True)
class MeanForce:
    """Label of one frame: force and its standard error [n_beads, 3], kcal/mol/angstrom, and what they were made of.

    uniform_force, uniform_error: the same average by the plain sum over each bead's rigid group, which must agree; variance,
    uniform_variance: of a single sample per component by the two maps; inefficiency: samples per independent one; blocks: whether
    the run was long enough for its blocks to be independent.
    """

    force: np.ndarray
    error: np.ndarray
    uniform_force: np.ndarray
    uniform_error: np.ndarray
    variance: float
    uniform_variance: float
    inefficiency: float
    blocks: bool
    picoseconds: float = 0.0
    seconds: float = 0.0

    @property
    def relative_error(self) -> float:
        """Rms standard error over the rms of the mean force, the error's own share taken out of the latter."""
        error = np.mean(self.error**2)
        return float(np.sqrt(error / max(np.mean(self.force**2) - error, 1e-12)))


def sample_mean_force(
    system: Any,
    positions: np.ndarray,
    held: np.ndarray,
    reduction: Reduction,
    supports: Sequence[np.ndarray],
    temperature_kelvin: float,
    seed: int,
    config: SamplingConfig,
    platform: str,
    where: str,
) -> MeanForce:
    """Return the mean force on the particles `held` [n_beads] of a system in which they are held (`all_atom.hold`).

    positions [n_atoms, 3] angstrom to start from; reduction: rigid groups and beads, over the system's particles; supports: per bead
    the groups its map may use. The same arguments give the same result. Raises `UserError` naming `where` where the simulation
    becomes unstable.
    """
    openmm = import_openmm()
    started = time.process_time()
    step_ps = config.time_step_fs / 1000
    every = max(1, round(config.sample_interval_fs / config.time_step_fs))
    samples_of = lambda picoseconds: max(2 * MIN_BLOCKS, round(picoseconds / (every * step_ps)))  # noqa: E731
    integrator = openmm.LangevinMiddleIntegrator(temperature_kelvin, config.friction_per_ps, step_ps)
    integrator.setRandomNumberSeed(seed)
    integrator.setConstraintTolerance(CONSTRAINT_TOLERANCE)
    context = new_context(system, integrator, platform)
    most = samples_of(config.max_ps)
    grouped = np.empty((most, reduction.n_groups, 3), np.float32)
    try:
        context.setPositions(np.asarray(positions, np.float64) * NANOMETRE_PER_ANGSTROM)
        context.applyConstraints(CONSTRAINT_TOLERANCE)
        context.setVelocitiesToTemperature(temperature_kelvin, seed)
        integrator.step(round(config.equilibration_ps / step_ps))
        n_samples, wanted = 0, min(samples_of(config.min_ps), most)
        while True:
            while n_samples < wanted:
                integrator.step(every)
                grouped[n_samples] = reduction.groups @ forces_now(context)
                n_samples += 1
            require(bool(np.isfinite(grouped[:n_samples]).all()), "forces are not finite")
            label = average(grouped[:n_samples], reduction, supports)
            if n_samples >= most or (label.blocks and label.relative_error <= config.relative_error):
                break
            wanted = min(round(GROWTH * n_samples), most)
        moved = context.getState(getPositions=True).getPositions(asNumpy=True)._value[held] / NANOMETRE_PER_ANGSTROM - positions[held]
    except (openmm.OpenMMException, UserError) as error:
        raise UserError(
            f"{where}: the simulation became unstable ({' '.join(str(error).split())[:120]}): the frame is strained, or lower "
            f"sampling.time_step_fs (now {config.time_step_fs:g})"
        ) from None
    require(
        bool(np.abs(moved).max(initial=0.0) <= MAX_BEAD_SHIFT_ANGSTROM),
        f"{where}: held beads moved by {np.abs(moved).max(initial=0.0):.2g} angstrom: hold them with all_atom.hold",
    )
    values = {**vars(label), "picoseconds": n_samples * every * step_ps, "seconds": time.process_time() - started}
    return MeanForce(**values)


def average(grouped: np.ndarray, reduction: Reduction, supports: Sequence[np.ndarray]) -> MeanForce:
    """Return the mean force of a series of group forces [n_samples, n_groups, 3], in order of time, with its standard error."""
    fold = np.arange(len(grouped)) * N_FOLDS // len(grouped)
    plain = np.einsum("bg,tgc->tbc", uniform_map(reduction), grouped, optimize=True)
    uniform_error, _, _ = standard_error(plain)
    uniform_variance = float(plain.var(axis=0).mean())
    mapped, variance = _best_mapped(grouped, fold, local_problem(reduction, supports), supports)
    if mapped is None or variance >= uniform_variance:
        mapped, variance = plain, uniform_variance
    error, inefficiency, independent = standard_error(mapped)
    return MeanForce(
        force=mapped.mean(axis=0),
        error=error,
        uniform_force=plain.mean(axis=0),
        uniform_error=uniform_error,
        variance=variance,
        uniform_variance=uniform_variance,
        inefficiency=inefficiency,
        blocks=independent,
    )


def standard_error(series: np.ndarray) -> tuple[np.ndarray, float, bool]:
    """Return the standard error [...] of the mean of a correlated series [n_samples, ...], by block averages.

    Blocks are doubled until their length b satisfies b^3 >= 2 n g^2, where g is how much larger the squared error of blocks of length b
    is than that of single samples, averaged over components (Lee et al., Phys. Rev. E 83, 066706 (2011); Flyvbjerg and
    Petersen, J. Chem. Phys. 91, 461 (1989)); at least 16 blocks are kept. Also returned: g, and whether the rule was satisfied.
    """
    series = np.asarray(series, np.float64)
    n_samples, length = len(series), 1
    single = series.var(axis=0, ddof=1) / n_samples
    scale = max(float(single.mean()), 1e-300)
    square, inefficiency = single, 1.0
    while length**3 < 2 * n_samples * inefficiency**2:
        if n_samples // (2 * length) < MIN_BLOCKS:
            return np.sqrt(square), inefficiency, False
        length *= 2
        n_blocks = n_samples // length
        # Left-over samples are the oldest ones.
        blocks = series[n_samples - n_blocks * length :].reshape(n_blocks, length, *series.shape[1:]).mean(axis=1)
        square = blocks.var(axis=0, ddof=1) / n_blocks
        inefficiency = max(float(square.mean()) / scale, 1.0)
    return np.sqrt(square), inefficiency, True


def _best_mapped(
    grouped: np.ndarray, fold: np.ndarray, problem: LocalProblem, supports: Sequence[np.ndarray]
) -> tuple[np.ndarray | None, float]:
    """Return the series [n_samples, n_beads, 3] by cross-fitted local maps of least variance, and that variance per component."""
    best: np.ndarray | None = None
    least = np.inf
    others = [_covariances(grouped[fold != k], problem, supports) for k in range(N_FOLDS)]
    scale = float(grouped.var(axis=0).mean())
    for ridge in RIDGES:
        mapped = np.empty((len(grouped), len(supports), 3))
        for k, covariance in enumerate(others):
            rows = solve_local_maps(covariance, problem, ridge * scale)
            for bead, support in enumerate(supports):
                mapped[fold == k, bead] = np.einsum("g,tgc->tc", rows[bead, : len(support)], grouped[fold == k][:, support])
        variance = float(mapped.var(axis=0).mean())
        if variance < least:
            best, least = mapped, variance
    return best, least


def _covariances(grouped: np.ndarray, problem: LocalProblem, supports: Sequence[np.ndarray]) -> np.ndarray:
    """Return [n_beads, width, width]: covariances of the group forces of each bead's support, averaged over components."""
    width = problem.index.shape[1]
    result = np.zeros((len(supports), width, width))
    centred = grouped - grouped.mean(axis=0)
    for bead, support in enumerate(supports):
        part = centred[:, support].transpose(1, 0, 2).reshape(len(support), -1).astype(np.float64)
        result[bead, : len(support), : len(support)] = part @ part.T / part.shape[1]
    return result
