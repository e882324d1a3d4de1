"""What a fit is told."""

from typing import Literal

import pydantic

from cg_data.configuration import Configuration


class _TermConfig(Configuration):
    weight: float = pydantic.Field(1.0, ge=0)
    keys: Literal["pooled", "residue"] = "pooled"
    minimum_count: int = pydantic.Field(2000, ge=10)


class BondConfig(_TermConfig):
    """Bonds: `harmonic`, `cis_trans` (two wells before proline) or `spline`."""

    form: Literal["harmonic", "cis_trans", "spline"] = "harmonic"
    weight: float = pydantic.Field(0.5, ge=0)


class AngleConfig(_TermConfig):
    """Angles: `fourier`, `quartic`, `restricted` or `spline`; order null lets the BIC choose up to `largest_order`."""

    form: Literal["fourier", "quartic", "restricted", "spline"] = "fourier"
    weight: float = pydantic.Field(0.25, ge=0)
    order: int | None = pydantic.Field(None, ge=1, le=10)
    largest_order: int = pydantic.Field(8, ge=1, le=10)


class DihedralConfig(_TermConfig):
    """Dihedrals: `periodic`, `gaussians` or `spline`; order null lets the BIC choose up to `largest_order`."""

    form: Literal["periodic", "gaussians", "spline"] = "periodic"
    weight: float = pydantic.Field(0.25, ge=0)
    order: int | None = pydantic.Field(None, ge=1, le=10)
    largest_order: int = pydantic.Field(6, ge=1, le=10)


class RepulsionConfig(_TermConfig):
    """eps (sigma/r)^4 between residues six or more apart; sigma null takes the low quantile of the distances."""

    form: Literal["soft_sphere"] = "soft_sphere"
    epsilon: float = pydantic.Field(1.0, gt=0)
    sigma: float | None = pydantic.Field(None, gt=0)
    quantile: float = pydantic.Field(0.01, gt=0, lt=0.5)
    switch_angstrom: float = pydantic.Field(6.0, gt=0)
    cutoff_angstrom: float = pydantic.Field(8.0, gt=0)


class ExcludedVolumeConfig(RepulsionConfig):
    """The same form between residues two to five apart, short enough not to push on chain neighbours where they are."""

    quantile: float = pydantic.Field(0.001, gt=0, lt=0.5)
    switch_angstrom: float = pydantic.Field(4.0, gt=0)
    cutoff_angstrom: float = pydantic.Field(5.5, gt=0)


class PriorConfig(Configuration):
    """How a prior is fitted; null drops a term."""

    temperature_kelvin: float | tuple[float, ...] | None = None
    bond: BondConfig | None = BondConfig()
    angle: AngleConfig | None = AngleConfig()
    dihedral: DihedralConfig | None = DihedralConfig()
    repulsion: RepulsionConfig | None = RepulsionConfig()
    excluded_volume: ExcludedVolumeConfig | None = ExcludedVolumeConfig()
    bootstrap_samples: int = pydantic.Field(20, ge=0)
    seed: int = 0
