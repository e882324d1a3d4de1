"""`prepare`: from all-atom files to a dataset folder."""

import logging
from collections.abc import Sequence
from pathlib import Path

from cg_data.coarse_grain import coarse_grain
from cg_data.config import PrepareConfig
from cg_data.errors import UserError
from cg_data.mapping import species_names_of
from cg_data.mdcath import open_mdcath
from cg_data.store import Dataset, open_dataset, write_domain, write_index

logger = logging.getLogger("cg_data")


def prepare(config: PrepareConfig, output: Path | str) -> Dataset:
    """Prepare all inputs into the dataset folder `output`, and open it."""
    output = Path(output)
    files = find_inputs(config.inputs)
    refused: dict[str, str] = {}
    output.mkdir(parents=True, exist_ok=True)
    for file in files:
        try:
            with open_mdcath(file) as sources:
                for source in sources:
                    data = coarse_grain(source, config)
                    write_domain(output, source.domain, data, config.split)
        except UserError as error:
            refused[str(file)] = str(error)
            logger.error("%s", error)
    config.save(output / "config.yaml")
    write_index(output, species_names_of(config.mapping), config.mapping.beads, {}, refused)
    return open_dataset(output)


def find_inputs(inputs: Sequence[str]) -> list[Path]:
    """Return the files."""
    return [Path(i) for i in inputs]
