"""The energy reference: an energy per bead of each species, so that the network starts from what is left."""

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from cg_data.errors import UserError, require
from cg_train.config import EnergyReferenceConfig
from cg_train.frames import GraphSource

logger = logging.getLogger(__name__)


def energy_reference(
    source: GraphSource, config: EnergyReferenceConfig, species_names: Sequence[str], prior_energies: np.ndarray | None = None
) -> tuple[float, ...]:
    """Return the energy per bead of each species, kcal/mol, from all energies of a source of training frames less the prior's [n_frames].

    Raises `UserError` where no training frame has an energy, or where given species are unknown or incomplete.
    """
    samples = range(len(source.table))
    energies = np.array([source.energy(sample) for sample in samples])
    if prior_energies is not None:
        energies = energies - prior_energies
    labelled = np.isfinite(energies)
    require(
        bool(labelled.any()),
        "loss.energy_weight: no training frame has an energy: set it to 0, or prepare data whose frames carry `energy`",
    )
    compositions = np.stack([source.composition(sample, len(species_names)) for sample in samples])[labelled].astype(np.float64)
    energies = energies[labelled]
    present = compositions.sum(axis=0) > 0
    if config.species is not None:
        return _given(config.species, species_names, present)
    if config.solve:
        solution, _, rank, _ = np.linalg.lstsq(compositions, energies, rcond=None)
        if rank < present.sum():
            logger.warning(
                "energy_reference.solve: compositions of %d kinds of beads have rank %d: the solution of least norm is taken",
                present.sum(),
                rank,
            )
        return tuple(solution.tolist())
    shift = config.shift if config.shift is not None else float((energies / compositions.sum(axis=1)).mean())
    return (shift,) * len(species_names)


def _given(energies: Mapping[str, float], species_names: Sequence[str], present: np.ndarray) -> tuple[float, ...]:
    unknown = sorted(set(energies) - set(species_names))
    if unknown:
        raise UserError(f"energy_reference.species: expected some of {', '.join(species_names)}, received {', '.join(unknown)}")
    missing = [name for name, occurs in zip(species_names, present, strict=True) if occurs and name not in energies]
    if missing:
        raise UserError(f"energy_reference.species: {', '.join(missing)} occur in the data: give their energies too")
    return tuple(float(energies.get(name, 0.0)) for name in species_names)
