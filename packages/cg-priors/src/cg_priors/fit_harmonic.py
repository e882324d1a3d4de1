"""Bonds: one harmonic well, or two before proline, whose peptide bond can be cis (CA-CA 2.9 angstrom instead of 3.8)."""

import numpy as np

from cg_data.units import thermal_energy
from cg_priors.boltzmann import linear_coefficients
from cg_priors.linear import Confinement, LinearBasis, Row

TYPICAL_LENGTH = 3.8
TYPICAL_SPREAD = 0.1
LEAST_QUADRATIC = 0.01
CIS_BELOW = 3.35
"""A CA-CA distance below this, in angstrom, is a cis peptide bond."""
ABSENT = 50.0
"""cis_energy, kcal/mol, of a row without cis bonds: its second well does not exist at any temperature."""


def harmonic_basis() -> LinearBasis:
    """Return 1/2 k (r - r0)^2 as c_1 u + c_2 u^2 with u = (r - 3.8 angstrom) / (0.1 angstrom)."""

    def arrays(c: np.ndarray) -> Row:
        return {
            "force_constant": np.asarray(2 * c[1] / TYPICAL_SPREAD**2),
            "length": np.asarray(TYPICAL_LENGTH - TYPICAL_SPREAD * c[0] / (2 * c[1])),
        }

    def reduced(x: np.ndarray) -> np.ndarray:
        return (x - TYPICAL_LENGTH) / TYPICAL_SPREAD

    return LinearBasis(
        values=lambda x: np.stack([reduced(x), reduced(x) ** 2], -1),
        slopes=lambda x: np.stack([np.ones_like(x), 2 * reduced(x)], -1) / TYPICAL_SPREAD,
        arrays=arrays,
        demands=lambda low, high: Confinement(np.array([[0.0, 1.0]]), np.array([LEAST_QUADRATIC])),
    )


def fit_cis_trans(counts: np.ndarray, centres: np.ndarray, temperature_kelvin: float, smallest_count: int = 50) -> Row:
    """Return both wells of the bond, each by maximum likelihood on its side of 3.35 angstrom, and their energy difference.

    counts, centres [n_bins], angstrom. With fewer than `smallest_count` cis bonds the cis well is a copy of the trans well at
    `ABSENT` kcal/mol; where nearly all bonds are cis, both are the cis well.
    """
    is_cis = centres < CIS_BELOW
    cis_count, trans_count = counts[is_cis].sum(), counts[~is_cis].sum()

    def well(chosen: np.ndarray) -> Row:
        basis = harmonic_basis()
        return basis.arrays(linear_coefficients("bond", basis, np.where(chosen, counts, 0), centres, temperature_kelvin))

    if trans_count < min(smallest_count, cis_count):
        # All bonds are cis: the well that exists is the first one.
        cis_count, is_cis = 0, ~is_cis
    trans = well(~is_cis)
    if cis_count < smallest_count:
        cis, energy = trans, ABSENT
    else:
        cis = well(is_cis)
        # Populations are integrals r^2 exp(-U/kT) over each well: width x r0^2.
        volumes = [float(well["length"] ** 2 / np.sqrt(well["force_constant"])) for well in (cis, trans)]
        energy = -thermal_energy(temperature_kelvin) * float(np.log(cis_count / trans_count * volumes[1] / volumes[0]))
    return {
        **trans,
        "cis_force_constant": cis["force_constant"],
        "cis_length": cis["length"],
        "cis_energy": np.asarray(energy),
    }
