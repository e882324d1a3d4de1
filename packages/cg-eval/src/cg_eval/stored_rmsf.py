"""The fluctuations that mdCATH states of each residue, from its files."""

from pathlib import Path

import h5py
import numpy as np

from cg_data.errors import UserError, require
from cg_data.mdcath import TEMPERATURE_GROUP
from cg_data.store import Dataset

ANGSTROM_PER_NANOMETRE = 10.0


def stored_rmsf(path: Path | str, dataset: Dataset, domain: str, temperature_kelvin: float) -> np.ndarray:
    """Return [n_beads] A: the root of the mean square of mdCATH's `rmsf` over a domain's replicas at a temperature.

    path: the domain's mdCATH file, or the folder that holds it. They are means over all frames of the file, also those that the
    data set left out. Raises `UserError` where there is no such file, no `rmsf`, or one of another number of residues.
    """
    path = Path(path)
    record = dataset.domain(domain)
    file_path = path / Path(record.source).name if path.is_dir() else path
    require(file_path.is_file(), f"mdcath={path}: no file {file_path.name} for {domain}: give the folder of the files the data set is from")
    try:
        with h5py.File(file_path, "r") as file:
            require(domain in file, f"{file_path}: no domain {domain}: give the file that the data set is from")
            found = [
                np.asarray(replica["rmsf"][()], np.float64) * ANGSTROM_PER_NANOMETRE
                for name, group in file[domain].items()
                if (match := TEMPERATURE_GROUP.fullmatch(name)) and abs(float(match[1]) - temperature_kelvin) < 1.0
                for replica in group.values()
                if "rmsf" in replica
            ]
    except OSError:
        raise UserError(f"{file_path}: not an HDF5 file, or truncated: get it again") from None
    require(bool(found), f"{file_path}: no rmsf of {domain} at {temperature_kelvin:g} K: leave out mdcath")
    require(
        all(len(values) == record.n_beads for values in found),
        f"{file_path}: rmsf of {len(found[0])} residues for {record.n_beads} beads of {domain}: leave out mdcath",
    )
    return np.sqrt((np.stack(found) ** 2).mean(axis=0))
