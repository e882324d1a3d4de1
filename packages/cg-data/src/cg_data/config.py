"""Options of `prepare`."""

from typing import Annotated, Literal

import pydantic

from cg_data.configuration import Configuration
from cg_data.split import SplitConfig

Range = tuple[float, float]


class SelectConfig(Configuration):
    """Which domains, trajectories and frames are read; null means all."""

    domains: tuple[str, ...] | None = None
    """Domain ids."""
    residues: tuple[int, int] | None = None
    """Smallest and largest number of residues of a domain."""
    index: str | None = None
    """`mdcath_source.h5`: with it, domains and trajectories outside the filters are skipped without being opened."""
    temperatures_kelvin: tuple[float, ...] | None = None
    replicas: tuple[int, ...] | None = None
    gyration_radius_angstrom: Range | None = None
    """Smallest and largest radius of gyration of a frame."""
    helix_fraction: Range | None = None
    """Smallest and largest share of residues in a helix (DSSP H, G, I) of a frame."""
    strand_fraction: Range | None = None
    """Smallest and largest share of residues in a strand (DSSP E, B) of a frame."""
    stride: int = pydantic.Field(default=1, ge=1)
    """Read every n-th frame."""
    max_frames: int | None = pydantic.Field(default=None, ge=1)
    """Most frames read of one trajectory."""
    choose: Literal["even", "random", "first"] = "even"
    """Which frames where there are more than `max_frames`: evenly spaced, drawn at random, or the first ones."""
    seed: int = 0


class QualityConfig(Configuration):
    """Which frames are rejected. Every rejected frame is counted by reason; none is repaired."""

    max_coordinate_angstrom: float = pydantic.Field(default=1e5, gt=0)
    neighbour_distance_angstrom: Range = (2.5, 4.5)
    """Accepted CA-CA distances of neighbours along an unbroken chain."""
    max_bond_angstrom: float = pydantic.Field(default=3.0, gt=0)
    """Longest accepted covalent bond."""
    max_force_kcal_mol_angstrom: float = pydantic.Field(default=1000.0, gt=0)
    """Largest accepted force component on an atom."""
    max_rejected_fraction: float = pydantic.Field(default=0.5, ge=0, le=1)
    """A domain with a larger share of rejected frames is refused; 0 refuses it for one bad frame."""


class ForceMapConfig(Configuration):
    """How all-atom forces become bead forces."""

    kind: Literal["slice", "uniform", "optimal", "optimal-local", "none"] = "optimal"
    """`slice`: force on the bead's atom. `uniform`: sum over its rigid group. `optimal`: least mean square force, over all atoms
    or neighbouring residues, whichever scores better on held-out frames. `optimal-local`: neighbouring residues only. `none`: no
    forces are read; the data set serves priors and observables only."""
    constraints: Literal["h-bonds", "none"] = "h-bonds"
    """Bonds the simulation held rigid: those to hydrogen, or none."""
    ridges: tuple[Annotated[float, pydantic.Field(ge=0)], ...] = pydantic.Field(default=(0.0, 0.1, 1.0, 10.0, 100.0), min_length=1)
    """Ridge strengths tried, (kcal/mol/angstrom)^2; the one with the best held-out score is used."""
    n_folds: int = pydantic.Field(default=5, ge=2)
    """Blocks of time each trajectory is cut into; a map is fitted on all but one and scored on that one."""
    cross_fit: bool = True
    """Map each block's forces with the map fitted on the other blocks. A map shrinks the forces it was fitted on."""
    neighbour_residues: int = pydantic.Field(default=1, ge=0)
    """Residues to each side whose atoms a local map may use."""
    max_weights: int = pydantic.Field(default=2000, ge=1)
    """Most weights per bead of a map over all atoms; larger proteins get local maps, whose memory does not grow as the square."""
    min_frames_per_weight: float = pydantic.Field(default=2.0, ge=0)
    """Fewest frames per weight for a map over all atoms to be tried."""
    per: Literal["domain", "temperature"] = "domain"
    """One map for all temperatures of a domain, or one for each."""


class MappingConfig(Configuration):
    """Which beads stand for a residue, and which species they are."""

    beads: str = "ca"
    """`ca`, `backbone` (N, CA, C), or the path of a YAML file with a linear map."""
    species: str = "residue"
    """`residue` (20), `charge` (4), or the path of a YAML table from residue (and bead) to species."""
    residue_variants: dict[str, str] = pydantic.Field(default_factory=dict)
    """Further residue names, each with the standard residue it counts as."""


class PrepareConfig(Configuration):
    """Options of `cg-data prepare`."""

    inputs: tuple[str, ...] = ()
    """Files, folders searched for `mdcath_dataset_*.h5`, or glob patterns; YAML files describe other sources."""
    select: SelectConfig = SelectConfig()
    quality: QualityConfig = QualityConfig()
    mapping: MappingConfig = MappingConfig()
    force_map: ForceMapConfig = ForceMapConfig()
    split: SplitConfig = SplitConfig()
    memory_megabytes: int = pydantic.Field(default=256, ge=0)
    """Forces of a domain up to this size are kept in memory between the two passes over them; larger ones are read twice."""
    workers: int = pydantic.Field(default=1, ge=1)
    """Processes, each preparing one domain at a time."""
    share: tuple[int, int] = (0, 1)
    """(index, count): prepare only each count-th domain, starting at index; the index file is left to `cg-data merge`."""


class FromNpzConfig(Configuration):
    """Options of `cg-data from-npz`."""

    temperature_kelvin: float | None = pydantic.Field(default=None, gt=0)
    """Temperature of files that do not hold it."""
    split: SplitConfig = SplitConfig()


class AllAtomConfig(Configuration):
    """The all-atom model that mean forces are averaged in; OpenMM's names."""

    force_field: tuple[str, ...] = pydantic.Field(default=("amber14/protein.ff14SB.xml", "implicit/obc2.xml"), min_length=1)
    """Force-field files, of OpenMM or one's own; the solvent is implicit, or there is none."""
    hydrogen_mass_amu: float = pydantic.Field(default=3.0, gt=0)
    """Mass of hydrogens, taken from the atom they are bonded to: slower hydrogens allow the time step."""
    max_force_difference: float | None = pydantic.Field(default=0.05, gt=0)
    """Largest accepted difference between the source's forces and this model's at the same frames, as a share of their rms; null
    accepts any: the labels are then those of this model, not of the source's."""
    platform: Literal["CPU", "CUDA", "HIP", "OpenCL", "Reference"] = "CPU"


class SamplingConfig(Configuration):
    """How long, and how, the atoms are simulated around the held beads."""

    time_step_fs: float = pydantic.Field(default=4.0, gt=0)
    friction_per_ps: float = pydantic.Field(default=1.0, gt=0)
    sample_interval_fs: float = pydantic.Field(default=40.0, gt=0)
    equilibration_ps: float = pydantic.Field(default=1.0, ge=0)
    """Left out of the average."""
    relative_error: float = pydantic.Field(default=0.1, gt=0)
    """A frame is finished when the rms standard error of its forces is below this share of their rms."""
    min_ps: float = pydantic.Field(default=20.0, gt=0)
    max_ps: float = pydantic.Field(default=1000.0, gt=0)
    """Shortest and longest average of a frame; where the longest is not enough, the label keeps its larger error."""


class MeanForceConfig(Configuration):
    """Options of `cg-data mean-force`."""

    inputs: tuple[str, ...] = ()
    """A dataset made by `prepare`, and where its files have moved, these; or the inputs of `prepare` alone."""
    prepare: PrepareConfig = PrepareConfig()
    """Options of `prepare` where the inputs are all-atom files; those of the dataset where it is one."""
    frames: int = pydantic.Field(default=20, ge=1)
    """Most frames of each domain, evenly spaced over those of the splits."""
    splits: tuple[Literal["train", "validation", "held_out_trajectories", "held_out_domains"], ...] = (
        "train",
        "validation",
        "held_out_trajectories",
        "held_out_domains",
    )
    """Splits that frames are taken from; each keeps its own."""
    all_atom: AllAtomConfig = AllAtomConfig()
    sampling: SamplingConfig = SamplingConfig()
    weight_floor_kcal_mol_angstrom: float = pydantic.Field(default=1.0, gt=0)
    """f: a frame weighs 1 / (f^2 + its mean squared error), scaled to mean 1; f is the error a model makes by itself, below which
    better labels are worth no more."""
    seed: int = 0
    workers: int = pydantic.Field(default=1, ge=1)
    """Processes, each averaging one frame at a time."""
