"""Write everything that one simulation needs into one folder: model, data, input, job script."""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from cg_data.atomic import atomic_folder
from cg_data.errors import require
from cg_export.artifact import DEFAULT_LADDER, Precision, export_artifact
from cg_export.lammps.build import ensure_plugin
from cg_export.lammps.data_file import bonded_kinds, check_box, check_species, data_file
from cg_export.lammps.input import LammpsConfig, batch_file, input_file
from cg_export.lammps.native import trained_prior, write_native_prior
from cg_export.lammps.system import System, combine
from cg_export.manifest import read_manifest
from cg_models.bundle import Bundle

logger = logging.getLogger(__name__)


def write_lammps(
    model: Bundle | Path | str,
    systems: System | Sequence[System],
    output: Path | str,
    config: LammpsConfig | None = None,
    precision: Precision | None = None,
    plugin: Path | str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write `model/`, `system.data`, `in.lammps`, `run.sbatch` and `lammps.yaml` into a new folder; return it. With priors native the
    model is the network alone, and `prior/` holds the rest.

    model: a bundle, exported in `precision`, float32 where None, with static modules for runtime pjrt alone, or the folder of an
    artifact, which is copied. systems: one structure or several, each taken `config.copies` times. plugin: path of the built plugin;
    the one of this Python environment, built first where needed, if None.
    `lmp -in in.lammps` in the folder then runs as written; `run.sbatch`, in a queue or by bash, also goes on with a run that was killed.

    Raises `UserError` for a species the model lacks, an artifact of another precision, a box too small, a missing compiler
    or a failed self-test, and for native priors where the model is not a bundle of prior and network.
    """
    config = config or LammpsConfig()
    prior = None
    if config.priors == "native":
        require(isinstance(model, Bundle), f"priors=native: expected a bundle, received artifact {model}, whose prior cannot be taken out")
        prior = trained_prior(cast(Bundle, model))
    structures = [systems] if isinstance(systems, System) else list(systems)
    system = combine([structure for structure in structures for _ in range(config.copies)], config.copy_spacing_angstrom)
    if isinstance(model, Bundle):
        check_species(system, model.species_names)
        reach = model.receptive_field_angstrom
    else:
        manifest = read_manifest(model)
        manifest.check_precision(precision)
        reach = manifest.receptive_field_angstrom
        if manifest.part != "full":
            logger.warning("%s: the artifact holds the %s alone, not the whole model", model, manifest.part)
    if config.box_angstrom is not None:
        check_box(system, config.box_angstrom, reach)
    plugin = ensure_plugin() if plugin is None else Path(plugin).resolve()
    with atomic_folder(output, overwrite=overwrite) as aside:
        if isinstance(model, Bundle):
            # The python runtime compiles its own sizes; static modules take longer to lower than all the rest.
            ladder = DEFAULT_LADDER if config.runtime == "pjrt" else ()
            manifest = export_artifact(model, aside / "model", precision or "float32", "full" if prior is None else "backbone", ladder)
        else:
            manifest = read_manifest(model)
            shutil.copytree(model, aside / "model")
        native = None if prior is None else write_native_prior(aside, prior, system)
        (aside / "system.data").write_text(data_file(system, manifest.species_names, manifest.masses_amu, config.box_angstrom, native))
        (aside / "in.lammps").write_text(input_file(config, manifest, plugin, bonded_kinds(system), native))
        (aside / "run.sbatch").write_text(batch_file(config))
        config.save(aside / "lammps.yaml")
    return Path(output)
