"""What a fit is told."""

import itertools
from typing import Any, Literal

import pydantic
from pydantic import Field

from cg_data.configuration import Configuration


class _TermConfig(Configuration):
    weight: float = Field(default=1.0, ge=0)
    """Factor of the term in the energy; method `joint` and `lbfgs` need none and write 1."""
    keys: Literal["pooled", "residue"] = "pooled"
    """One row for all residues, or one per residue type (see README) with the pooled one below `minimum_count`."""
    minimum_count: int = Field(default=2000, ge=10)


class _BondedConfig(_TermConfig):
    estimate: Literal["likelihood", "kde", "histogram"] = "likelihood"
    """Maximum likelihood, or least squares to the free energy of a kernel density or of a histogram; splines always use `kde`,
    two-well, restricted and Gaussian forms always the likelihood."""
    intervals: int = Field(default=40, ge=4, le=500)
    """Intervals of a spline."""
    order_by: Literal["cross_validation", "bic"] = "cross_validation"


class BondConfig(_BondedConfig):
    """Bonds: `harmonic`, `cis_trans` (a second well before proline) or `spline`."""

    form: Literal["harmonic", "cis_trans", "spline"] = "harmonic"
    weight: float = Field(default=0.5, ge=0)


class AngleConfig(_BondedConfig):
    """Angles: `fourier`, `quartic`, `restricted` or `spline`; order null is chosen, up to `largest_order`."""

    form: Literal["fourier", "quartic", "restricted", "spline"] = "fourier"
    weight: float = Field(default=0.25, ge=0)
    order: int | None = Field(default=None, ge=1, le=10)
    largest_order: int = Field(default=8, ge=1, le=10)


class DihedralConfig(_BondedConfig):
    """Dihedrals: `periodic`, `gaussians` or `spline`; order null is chosen, up to `largest_order`."""

    form: Literal["periodic", "gaussians", "spline"] = "periodic"
    weight: float = Field(default=0.25, ge=0)
    order: int | None = Field(default=None, ge=1, le=10)
    largest_order: int = Field(default=6, ge=1, le=10)


class RepulsionConfig(_TermConfig):
    """eps (sigma/r)^4 between residues six or more apart; sigma null is the low quantile of distances below 10 angstrom."""

    form: Literal["soft_sphere"] = "soft_sphere"
    epsilon: float = Field(default=1.0, gt=0)
    sigma: float | None = Field(default=None, gt=0)
    quantile: float = Field(default=0.01, gt=0, lt=0.5)
    switch_angstrom: float = Field(default=6.0, gt=0)
    cutoff_angstrom: float = Field(default=8.0, gt=0)

    @pydantic.model_validator(mode="after")
    def _switch_below_cutoff(self) -> "RepulsionConfig":
        if self.switch_angstrom >= self.cutoff_angstrom:
            raise ValueError(f"switch_angstrom must be below cutoff_angstrom = {self.cutoff_angstrom:g}, received {self.switch_angstrom:g}")
        return self


class ExcludedVolumeConfig(RepulsionConfig):
    """The same form between residues two to five apart, short enough to leave chain neighbours where they are."""

    quantile: float = Field(default=0.001, gt=0, lt=0.5)
    switch_angstrom: float = Field(default=4.0, gt=0)
    cutoff_angstrom: float = Field(default=5.5, gt=0)


class ForceMatchConfig(Configuration):
    """Methods `joint` and `lbfgs`."""

    ridge: float | None = Field(default=None, ge=0)
    """Ridge of the joint fit relative to the scale of each coefficient; null chooses by cross-validation over blocks."""
    max_frames: int = Field(default=4000, ge=1)
    """Frames used at most, evenly spaced over all domains."""
    iterations: int = Field(default=200, ge=1)
    """Steps of L-BFGS."""


class PriorConfig(Configuration):
    """How a prior is fitted; null drops a term."""

    temperature_kelvin: float | tuple[float, ...] | Literal["all"] | None = None
    """Temperatures to fit at, one block each; null: the one temperature of the data, several are refused."""
    method: Literal["boltzmann", "joint", "lbfgs"] = "boltzmann"
    bond: BondConfig | None = BondConfig()
    angle: AngleConfig | None = AngleConfig()
    dihedral: DihedralConfig | None = DihedralConfig()
    repulsion: RepulsionConfig | None = RepulsionConfig()
    excluded_volume: ExcludedVolumeConfig | None = ExcludedVolumeConfig()
    force_match: ForceMatchConfig = ForceMatchConfig()
    bootstrap_samples: int = Field(default=20, ge=0)
    """Resamples of whole blocks of trajectories behind every standard error; fewer than 2: none."""
    pair_frames: int = Field(default=200, ge=1)
    """Frames of one block whose non-bonded distances are looked at, evenly spaced."""
    seed: int = Field(default=0, ge=0)

    @pydantic.field_validator("temperature_kelvin")
    @classmethod
    def _apart(cls, chosen: Any) -> Any:
        if isinstance(chosen, tuple):
            if not chosen:
                raise ValueError("expected at least one temperature, one number, all or null")
            near = [pair for pair in itertools.pairwise(sorted(chosen)) if pair[1] - pair[0] < 1]
            if near:
                raise ValueError(f"expected temperatures at least 1 K apart, found {near[0][0]:g} and {near[0][1]:g} K")
        return chosen
