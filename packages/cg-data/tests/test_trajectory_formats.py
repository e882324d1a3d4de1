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


def one(positions="run0.npz", **more):
    return [{"positions": positions, "temperature_kelvin": 348, **more}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"domain": "a/b"}, "domain id 'a/b': expected a plain name"),
        ({"domain": "x" * 300}, "domain id 'x+': expected a plain name"),
        ({"domain": "a\nb"}, "domain id 'a.nb': expected a plain name"),
        ({"trajectories": one("empty.npy", forces="empty.npy")}, "empty.npy: no frames; expected at least one: leave it out"),
        ({"trajectories": one("whole.npy", forces="whole.npy")}, "whole.npy: expected positions as floats, received int64"),
        ({"trajectories": one(forces="forces.npy")}, "forces: a file of its own goes with positions in NPY; run0.npz holds both"),
        ({"trajectories": one("positions.npy", forces="run0.npz")}, "forces: expected an NPY file, received 'run0.npz'"),
        (
            {"trajectories": one("lengths.npz")},
            r"lengths.npz: box: expected \[3, 3\] or \[30, 3, 3\], rows are lattice vectors, received \[3\]",
        ),
        ({"trajectories": one("flat.npz")}, "flat.npz: box: expected three independent vectors"),
        ({"trajectories": one("damaged.npz")}, "damaged.npz: cannot be read as plain NumPy arrays"),
    ],
)
def test_mistakes_of_a_description_are_one_line(described, tmp_path, changes, message):
    with np.load(tmp_path / "run0.npz") as arrays:
        positions, forces = arrays["positions"][:30], arrays["forces"][:30]
    np.save(tmp_path / "empty.npy", positions[:0])
    np.save(tmp_path / "whole.npy", positions.astype(int))
    np.save(tmp_path / "positions.npy", positions)
    np.save(tmp_path / "forces.npy", forces)
    np.savez(tmp_path / "lengths.npz", positions=positions, forces=forces, box=np.full(3, 3.0))
    np.savez(tmp_path / "flat.npz", positions=positions, forces=forces, box=np.ones((3, 3)))
    np.savez_compressed(tmp_path / "damaged.npz", positions=positions, forces=forces)
    data = bytearray((tmp_path / "damaged.npz").read_bytes())
    data[1000:3000] = b"\xff" * 2000
    (tmp_path / "damaged.npz").write_bytes(data)
    with pytest.raises(UserError, match=message):
        run(described(**changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_box_of_zeros_is_no_box_and_one_of_each_frame_is_that_frames(described, tmp_path):
    with np.load(tmp_path / "run0.npz") as arrays:
        positions, forces = arrays["positions"][:30], arrays["forces"][:30]
    length = 4.0 + 0.002 * np.arange(30)
    box = length[:, None, None] * np.eye(3)
    cut = (positions - positions.mean(axis=1, keepdims=True)) % length[:, None, None]
    assert np.abs(np.diff(cut[:, :, 0], axis=1)).max() > 2
    distances = []
    for name, arrays in {"none": {"positions": positions, "box": np.zeros((3, 3))}, "each": {"positions": cut, "box": box}}.items():
        np.savez(tmp_path / f"{name}.npz", forces=forces, **arrays)
        beads = run(described(trajectories=one(f"{name}.npz")), tmp_path / name, force_map={"kind": "slice"}).frames("chignolin").positions
        distances.append(np.linalg.norm(beads[:, :, None] - beads[:, None], axis=-1))
    np.testing.assert_allclose(distances[1], distances[0], atol=1e-3)


def write_trr(path, topology, positions, forces, box=None):
    """Write nm and kJ/mol/nm arrays; forces of None where a frame has none; box [n_frames] edges in angstrom."""
    mda = pytest.importorskip("MDAnalysis")
    universe = mda.Universe(str(topology))
    with mda.Writer(str(path), universe.atoms.n_atoms) as writer:
        for i, frame in enumerate(positions):
            step = universe.trajectory.ts
            step.has_forces = forces[i] is not None
            universe.atoms.positions = frame * 10
            step.dimensions = None if box is None else [*[box[i]] * 3, 90, 90, 90]
            if step.has_forces:
                step.forces = forces[i] / 10
            writer.write(universe)


@pytest.mark.filterwarnings("ignore")
def test_molecules_are_made_whole_by_the_box_of_their_frame(described, tmp_path):
    """At constant pressure the box changes: with that of the first frame, beads were placed wrongly by all of the change."""
    with np.load(tmp_path / "run0.npz") as arrays:
        positions, forces = arrays["positions"][:30], arrays["forces"][:30]
    length = 40 + 0.02 * np.arange(30)
    cut = (positions - positions.mean(axis=1, keepdims=True)) % (length[:, None, None] / 10)
    distances = []
    for name, arrays in {"whole": (positions, forces), "cut": (cut, forces, length)}.items():
        write_trr(tmp_path / f"{name}.trr", tmp_path / "top.pdb", *arrays)
        beads = run(described(trajectories=one(f"{name}.trr")), tmp_path / name, force_map={"kind": "slice"}).frames("chignolin").positions
        distances.append(np.linalg.norm(beads[:, :, None] - beads[:, None], axis=-1))
    np.testing.assert_allclose(distances[1], distances[0], atol=1e-3)


@pytest.mark.filterwarnings("ignore")
def test_forces_of_some_frames_only_are_refused_or_not_needed(described, tmp_path):
    with np.load(tmp_path / "run0.npz") as arrays:
        positions, forces = arrays["positions"][:30], arrays["forces"][:30]
    write_trr(tmp_path / "some.trr", tmp_path / "top.pdb", positions, [f if i % 2 == 0 else None for i, f in enumerate(forces)])
    path = described(trajectories=one("some.trr"))
    with pytest.raises(UserError, match=r"some.trr: frame 1 has no forces; .* force_map.kind=none"):
        run(path, tmp_path / "out")
    assert run(path, tmp_path / "out", force_map={"kind": "none"}).domain("chignolin").n_frames == 30


@pytest.mark.filterwarnings("ignore")
def test_a_selection_is_read_and_leaves_no_residue_of_the_chain_out_by_itself(described, tmp_path):
    """MDAnalysis' `protein` knows neither phosphothreonine nor what a force field calls its own: the residue was missing without a word."""
    with np.load(tmp_path / "run0.npz") as arrays:
        write_trr(tmp_path / "run.trr", tmp_path / "top.pdb", arrays["positions"][:30], arrays["forces"][:30])
    with pytest.raises(UserError, match=r"selection 'protien': .*nknown selection token"):
        run(described(trajectories=one("run.trr"), selection="protien"), tmp_path / "out")
    top = tmp_path / "top.pdb"
    top.write_bytes(top.read_bytes().replace(b"THR 0   6", b"TPO 0   6"))
    path = described(trajectories=one("run.trr"))
    with pytest.raises(
        UserError, match=r"selection 'protein' leaves out residue TPO 6.*: state the selection, such as 'protein or resname TPO'"
    ):
        run(path, tmp_path / "out")
    path = described(trajectories=one("run.trr"), selection="protein or resname TPO")
    assert run(path, tmp_path / "all").domain("chignolin").n_beads == 10
    path = described(trajectories=one("run.trr"), selection="protein")
    assert run(path, tmp_path / "nine").domain("chignolin").n_beads == 9


def test_two_trajectories_of_one_temperature_and_replica_are_refused(described, tmp_path):
    """Without a number they were taken for one replica: none was held out whole, and mean forces took the atoms of the last."""
    trajectories = [{"positions": f"run{r}.npz", "temperature_kelvin": 348} for r in (0, 1)]
    with pytest.raises(
        UserError, match=r"run1.npz: expected one trajectory at 348 K, replica 0, received another, .*run0.npz: number them"
    ):
        run(described(trajectories=trajectories), tmp_path / "out")
