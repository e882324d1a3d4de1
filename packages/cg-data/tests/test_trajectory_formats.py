import h5py
import numpy as np
import pytest
import yaml

from cg_data.config import PrepareConfig
from cg_data.errors import UserError
from cg_data.pipeline import prepare

KJ = 4.184


@pytest.fixture
def described(chignolin_file, tmp_path):
    """Return a writer of a YAML description of chignolin's two trajectories in nm and kJ/mol/nm, with some options changed."""
    with h5py.File(chignolin_file) as file:
        group = file["5awlA00"]
        (tmp_path / "top.pdb").write_bytes(group["pdbProteinAtoms"][()])
        for replica in "01":
            run = group[f"348/{replica}"]
            np.savez(tmp_path / f"run{replica}.npz", positions=run["coords"][()] / 10, forces=run["forces"][()] * KJ * 10)

    def write(**changes):
        description = {
            "domain": "chignolin",
            "topology": "top.pdb",
            "trajectories": [{"positions": f"run{r}.npz", "temperature_kelvin": 348, "replica": r} for r in (0, 1)],
            "length_unit": "nm",
            "force_unit": "kJ/mol/nm",
        }
        path = tmp_path / "chignolin.yaml"
        path.write_text(yaml.safe_dump({**description, **changes}))
        return path

    return write


def run(path, output, **options):
    return prepare(PrepareConfig.parse({"inputs": [str(path)], **options}, "test"), output)


def test_pdb_and_npz_in_other_units_give_the_beads_of_the_mdcath_file(described, chignolin_file, tmp_path):
    ours = run(described(), tmp_path / "ours").frames("chignolin")
    reference = run(chignolin_file, tmp_path / "reference").frames("5awlA00")
    np.testing.assert_allclose(ours.positions, reference.positions, atol=1e-5)
    np.testing.assert_allclose(ours.forces, reference.forces, atol=2e-3)
    np.testing.assert_array_equal(ours.species, reference.species)
    np.testing.assert_array_equal(ours.trajectory, reference.trajectory)


def test_positions_without_forces_are_prepared_for_priors_and_marked(described, tmp_path):
    for replica in (0, 1):
        with np.load(tmp_path / f"run{replica}.npz") as arrays:
            np.save(tmp_path / f"run{replica}.npy", arrays["positions"])
    trajectories = [{"positions": f"run{r}.npy", "temperature_kelvin": 348, "replica": r} for r in (0, 1)]
    path = described(trajectories=trajectories)
    with pytest.raises(UserError, match="no forces; expected"):
        run(path, tmp_path / "out")
    dataset = run(path, tmp_path / "out", force_map={"kind": "none"})
    assert not dataset.info.has_forces
    assert dataset.domain("chignolin").force_map.kind == "none"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"topology": "no.pdb"}, "no such file 'no.pdb'"),
        ({"length_unit": "angstrom"}, "median CA-CA distance of neighbours 0.38"),
        ({"force_unit": "kcal/mol/angstrom"}, "look like kJ/mol/nm"),
        ({"force_units": "nm"}, "did you mean 'force_unit'"),
        ({"trajectories": []}, "at least 1 item"),
    ],
)
def test_a_description_that_does_not_fit_is_refused_by_name(described, tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        run(described(**changes), tmp_path / "out")
    assert "chignolin.yaml" in str(caught.value)


def test_atoms_that_do_not_match_the_topology_are_refused(described, tmp_path):
    np.savez(tmp_path / "run1.npz", positions=np.zeros((5, 174, 3)), forces=np.zeros((5, 174, 3)))
    with pytest.raises(UserError, match=r"run1.npz: expected positions \[frames, 175, 3\] for .*, received \[5, 174, 3\]"):
        run(described(), tmp_path / "out")
    np.savez(tmp_path / "run1.npz", positions=np.zeros((5, 175, 3)), forces=np.zeros((4, 175, 3)))
    with pytest.raises(UserError, match="expected forces of the shape of positions"):
        run(described(), tmp_path / "out")


def test_hdf5_arrays_are_read_by_slices_in_the_stated_units(described, chignolin_file, tmp_path):
    with h5py.File(chignolin_file) as file, h5py.File(tmp_path / "run.h5", "w") as arrays:
        for name, ours, factor in (("coords", "positions", 0.1), ("forces", "forces", 10 * KJ)):
            arrays[ours] = file[f"5awlA00/348/0/{name}"][:20] * factor
        arrays["box"] = np.eye(3) * 5
    path = described(trajectories=[{"positions": "run.h5", "temperature_kelvin": 348}])
    compare_with_the_first_frames(path, chignolin_file, tmp_path)
    with h5py.File(tmp_path / "run.h5", "a") as arrays:
        del arrays["positions"]
    with pytest.raises(UserError, match=r"run.h5: no data set 'positions'; expected positions and forces"):
        run(path, tmp_path / "out")
    (tmp_path / "run.h5").write_text("text")
    with pytest.raises(UserError, match=r"run.h5: cannot be opened as HDF5"):
        run(path, tmp_path / "out")


def compare_with_the_first_frames(path, chignolin_file, tmp_path, domain="chignolin"):
    """Prepare a description of the first 20 frames of chignolin with the slice map; its beads must be those of the mdCATH file."""
    ours = run(path, tmp_path / "ours", force_map={"kind": "slice"}).frames(domain)
    select = {"replicas": [0], "max_frames": 20, "choose": "first"}
    reference = run(chignolin_file, tmp_path / "reference", force_map={"kind": "slice"}, select=select).frames("5awlA00")
    np.testing.assert_allclose(ours.positions, reference.positions, atol=1e-4)
    np.testing.assert_allclose(ours.forces, reference.forces, atol=2e-3)
    np.testing.assert_array_equal(ours.species, reference.species)
    np.testing.assert_array_equal(ours.chain_index, reference.chain_index)


@pytest.fixture
def first_frames(chignolin_file):
    """Positions and forces [20, 175, 3] of chignolin in angstrom and kcal/mol/angstrom."""
    with h5py.File(chignolin_file) as file:
        group = file["5awlA00/348/0"]
        return group["coords"][:20], group["forces"][:20]


def write_topologies(chignolin_file, folder, analysis):
    """Write the PSF of the file, and a GRO, as programs do that know no elements and no bonds."""
    with h5py.File(chignolin_file) as file:
        (folder / "top.psf").write_bytes(file["5awlA00/psf"][()])
    analysis.Universe(str(folder / "top.pdb")).atoms.write(str(folder / "top.gro"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # MDAnalysis warns of what a topology lacks.
@pytest.mark.parametrize(
    ("topology", "trajectory"),
    [("top.psf", "run.npz"), ("top.gro", "run.npz"), ("top.pdb", "run.trr"), ("top.psf", "run.trr"), ("top.gro", "run.h5md")],
)
def test_topologies_and_trajectories_through_mdanalysis_give_the_same_beads(
    described, chignolin_file, first_frames, tmp_path, topology, trajectory
):
    analysis = pytest.importorskip("MDAnalysis")
    write_topologies(chignolin_file, tmp_path, analysis)
    positions, forces = first_frames
    if trajectory == "run.npz":
        np.savez(tmp_path / trajectory, positions=positions / 10, forces=forces * 10 * KJ)
    else:
        units = {"lengthunit": "nm", "timeunit": "ps", "forceunit": "kJ/(mol*nm)", "n_frames": 20, "forces": True, "velocities": False}
        universe = analysis.Universe(str(tmp_path / "top.pdb"))
        universe.trajectory.ts.has_forces = True
        with analysis.Writer(str(tmp_path / trajectory), n_atoms=175, **(units if trajectory == "run.h5md" else {})) as writer:
            for frame, force in zip(positions, forces, strict=True):
                # MDAnalysis holds kJ/mol/angstrom and converts to the file's unit.
                universe.trajectory.ts.positions, universe.trajectory.ts.forces = frame, force * KJ
                writer.write(universe.atoms)
    path = described(topology=topology, trajectories=[{"positions": trajectory, "temperature_kelvin": 348}])
    compare_with_the_first_frames(path, chignolin_file, tmp_path)


def test_a_format_that_needs_mdanalysis_says_so_where_it_is_not_installed(described, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "MDAnalysis", None)
    (tmp_path / "run.xtc").write_bytes(b"")
    path = described(trajectories=[{"positions": "run.xtc", "temperature_kelvin": 348}])
    with pytest.raises(UserError, match=r"run.xtc: this format needs MDAnalysis: install cg-data\[trajectories\]"):
        run(path, tmp_path / "out")


def test_a_refused_description_stays_refused_beside_a_good_one_of_the_same_name(described, tmp_path):
    """The good one used to take the refusal of the other away, and the command ended with code 0."""
    good, other = described(), tmp_path / "broken" / "chignolin.yaml"
    other.parent.mkdir()
    other.write_text(good.read_text().replace("domain: chignolin", "domain: other"))
    dataset = prepare(PrepareConfig.parse({"inputs": [str(good), str(other)]}, "test"), tmp_path / "out")
    assert dataset.domains == ("chignolin",)
    (reason,) = dataset.info.refused.values()
    assert "broken/chignolin.yaml: no such file" in reason


def test_a_changed_temperature_or_unit_of_a_description_is_prepared_again(described, tmp_path):
    """A description of the same length was taken for the same one."""
    run(described(), tmp_path / "out")
    trajectories = [{"positions": f"run{r}.npz", "temperature_kelvin": 300, "replica": r} for r in (0, 1)]
    assert run(described(trajectories=trajectories), tmp_path / "out").info.temperatures_kelvin == (300.0,)


def test_select_residues_holds_for_descriptions_too(described, tmp_path):
    with pytest.raises(UserError, match="no domain is left"):
        run(described(), tmp_path / "out", select={"residues": [100, 200]})
    assert run(described(), tmp_path / "out", select={"residues": [10, 10]}).domains == ("chignolin",)
