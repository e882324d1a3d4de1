import h5py
import numpy as np
import pytest
import yaml

from cg_data.config import MappingConfig, PrepareConfig
from cg_data.errors import UserError
from cg_data.mapping import RESIDUE_SPECIES, species_names_of, species_table
from cg_data.mdcath import open_mdcath
from cg_data.pipeline import prepare
from cg_data.topology import bonded_tuples


def run(path, output, **options):
    return prepare(PrepareConfig.parse({"inputs": [str(path)], **options}, "test"), output)


def test_backbone_beads_are_n_ca_c_in_chain_order_with_a_consistent_map(chignolin_file, tmp_path):
    dataset = run(chignolin_file, tmp_path / "out", mapping={"beads": "backbone"})
    record, frames = dataset.domain("5awlA00"), dataset.frames("5awlA00")
    assert record.bead_names == ("N", "CA", "C") * 10
    assert (frames.n_beads, len(dataset.species_names)) == (30, 60)
    assert dataset.species_names[frames.species[4]] == "TYR-CA"
    bonds = bonded_tuples(frames.residue_index, frames.chain_index, 2)
    lengths = np.linalg.norm(np.diff(frames.positions[:, bonds], axis=2)[:, :, 0], axis=-1)
    assert len(bonds) == 29
    assert lengths.min() > 1.2
    assert lengths.max() < 1.8
    assert record.force_map.scores[record.force_map.kind] < record.force_map.scores["uniform"] < record.force_map.scores["slice"]


def test_a_map_of_ones_own_places_beads_at_weighted_means(chignolin_file, tmp_path):
    beads = {"CA": {"atoms": {"CA": 1}}, "SC": {"atoms": {"CB": 3, "CG": 1}, "residues": ["TYR", "PRO", "GLU", "ASP"]}}
    (tmp_path / "map.yaml").write_text(yaml.safe_dump({"beads": beads}))
    dataset = run(chignolin_file, tmp_path / "out", mapping={"beads": str(tmp_path / "map.yaml")})
    record, frames = dataset.domain("5awlA00"), dataset.frames("5awlA00")
    assert record.bead_names[:5] == ("CA", "SC", "CA", "SC", "CA")
    assert frames.n_beads == 16
    with h5py.File(chignolin_file) as file, open_mdcath(chignolin_file) as opened:
        names = opened.source("5awlA00").atoms.names
        coords = file["5awlA00/348/0/coords"][0].astype(np.float64)
    mean = 0.75 * coords[np.flatnonzero(names == "CB")[0]] + 0.25 * coords[np.flatnonzero(names == "CG")[0]]
    np.testing.assert_allclose(frames.positions[0, 1], mean, atol=1e-5)
    assert record.force_map.kind == "optimal-local"


@pytest.mark.parametrize(
    ("beads", "message"),
    [
        ({"beads": {"SC": {"atoms": {"CB": 1}}}}, r"residue GLY 7: no atom CB for its bead SC"),
        ({"beads": {"SC": {"atoms": {"CB": -1}}}}, "weights above 0"),
        ({"beads": {"SC": {"atom": {"CB": 1}}}}, "unknown key .beads.SC.atom.; did you mean .atoms."),
        ({"beads": {}}, "no beads"),
        ({"beads": {"A": {"atoms": {"CA": 1}}, "B": {"atoms": {"HA": 1}, "residues": ["TYR"]}}}, r"5awlA00: two beads share a group"),
    ],
)
def test_a_map_that_does_not_fit_is_refused_by_name(chignolin_file, tmp_path, beads, message):
    (tmp_path / "map.yaml").write_text(yaml.safe_dump(beads))
    with pytest.raises(UserError, match=message):
        run(chignolin_file, tmp_path / "out", mapping={"beads": str(tmp_path / "map.yaml")})


def test_species_by_charge_class_and_by_a_table(chignolin_file, tmp_path):
    dataset = run(chignolin_file, tmp_path / "charge", mapping={"species": "charge"})
    assert dataset.species_names == ("hydrophobic", "negative", "polar", "positive")
    named = [dataset.species_names[s] for s in dataset.frames("5awlA00").species]
    assert named == ["polar", "polar", "negative", "hydrophobic", "negative", "polar", "hydrophobic", "polar", "hydrophobic", "polar"]
    (tmp_path / "species.yaml").write_text(yaml.safe_dump({"GLY": "small", "*": "other"}))
    assert species_names_of(MappingConfig(species=str(tmp_path / "species.yaml"))) == ("other", "small")
    (tmp_path / "species.yaml").write_text(yaml.safe_dump({"GLY": "small"}))
    with pytest.raises(UserError, match="no species for bead CA of ALA; add the key 'ALA'"):
        species_table(MappingConfig(species=str(tmp_path / "species.yaml")))


def test_the_default_species_are_the_twenty_residues():
    assert species_names_of(MappingConfig()) == RESIDUE_SPECIES


@pytest.mark.parametrize(("options", "message"), [({"beads": "cb"}, "expected ca, backbone"), ({"species": "kind"}, "expected residue")])
def test_unknown_maps_and_species_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        species_table(MappingConfig(**options))


def test_variants_are_mapped_and_more_can_be_given(parts, write_mdcath, tmp_path):
    names, residues = parts["atoms"]["resname"], parts["atoms"]["resid"]
    for residue, name in ((1, b"HSD"), (2, b"MSE"), (3, b"ASH"), (5, b"UNK")):
        names[residues == residue] = name
    path = write_mdcath(tmp_path / "variants.h5", parts)
    with pytest.raises(UserError, match="residue 'UNK' is not an amino acid"):
        run(path, tmp_path / "out")
    dataset = run(path, tmp_path / "out", mapping={"residue_variants": {"UNK": "ALA"}})
    assert dataset.domain("5awlA00").residue_names == ("HIS", "MET", "ASP", "PRO", "ALA", "THR", "GLY", "THR", "TRP", "TYR")


def test_the_index_keeps_files_from_being_opened(parts, write_mdcath, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    write_mdcath(folder / "mdcath_dataset_5awlA00.h5", parts)
    for domain in ("1bigA00", "2wideA0", "3emptyA"):
        (folder / f"mdcath_dataset_{domain}.h5").write_text("never opened")
    with h5py.File(tmp_path / "mdcath_source.h5", "w") as file:
        for domain, n_residues, frames, low in (
            ("5awlA00", 10, 30, 0.5),
            ("1bigA00", 300, 30, 0.5),
            ("2wideA0", 10, 30, 2.0),
            ("3emptyA", 10, 0, 0.5),
        ):
            file.create_group(domain).attrs["numResidues"] = n_residues
            run_group = file.create_group(f"{domain}/348/0")
            run_group.attrs.update({"numFrames": frames, "min_gyration_radius": low, "max_gyration_radius": low + 0.3})
    select = {"index": str(tmp_path / "mdcath_source.h5"), "residues": [5, 100], "gyration_radius_angstrom": [0.0, 10.0]}
    dataset = run(folder, tmp_path / "out", select=select)
    assert (dataset.domains, dataset.info.refused) == (("5awlA00",), {})
    with pytest.raises(UserError, match="none of the inputs is a domain asked for"):
        run(folder, tmp_path / "none", select={**select, "residues": [1000, 2000]})
