import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from cg_data import mean_force_dataset
from cg_data.all_atom import build_model, forces_now, hold, model_forces, new_context
from cg_data.config import AllAtomConfig, MeanForceConfig, PrepareConfig, SamplingConfig
from cg_data.constraints import find_bonds, rigid_groups
from cg_data.errors import UserError
from cg_data.force_map import reduce_atoms
from cg_data.mdcath import open_mdcath
from cg_data.mean_force import sample_mean_force, standard_error
from cg_data.mean_force_dataset import choose_label_frames, make_mean_forces, restrict_segments
from cg_data.pipeline import prepare
from cg_data.store import open_dataset
from cg_data.units import thermal_energy
from cg_data.verify import verify

openmm = pytest.importorskip("openmm")
SPRING = 418.4
"""kJ/mol/nm^2 of 1 kcal/mol/angstrom^2."""
SHORT = SamplingConfig(min_ps=1.6, max_ps=1.6, equilibration_ps=0.2)


def toy_system(bonds, n_particles, constraints=()):
    """Particles of 12 amu joined by springs of rest length zero: bonds (i, j, kcal/mol/angstrom^2), constraints (i, j, angstrom)."""
    system = openmm.System()
    springs = openmm.HarmonicBondForce()
    for _ in range(n_particles):
        system.addParticle(12.0)
    for i, j, stiffness in bonds:
        springs.addBond(i, j, 0.0, stiffness * SPRING)
    for i, j, length in constraints:
        system.addConstraint(i, j, length / 10)
    system.addForce(springs)
    return system


def toy_mean_force(system, positions, held, rigid=(), picoseconds=200.0):
    hold(system, np.array(held))
    n = len(positions)
    beads = csr_array((np.ones(len(held)), (np.arange(len(held)), held)), shape=(len(held), n))
    reduction = reduce_atoms(rigid_groups(np.array(rigid, np.int64).reshape(-1, 2), n), beads, "toy")
    supports = [np.arange(reduction.n_groups)] * len(held)
    sampling = SamplingConfig(time_step_fs=4, friction_per_ps=5, min_ps=picoseconds, max_ps=picoseconds)
    return sample_mean_force(system, positions, np.array(held), reduction, supports, 300.0, 7, sampling, "Reference", "toy")


def assert_within_errors(force, error, expected):
    assert (error < 0.2).all()
    np.testing.assert_allclose(force, expected, atol=float(4 * error.max() + 1e-3))


def test_the_mean_force_of_a_chain_of_springs_is_that_of_one_spring():
    k1, k2 = 3.0, 5.0
    positions = np.array([[0, 0, 0], [1, 0.5, 0], [3.0, 1, -1]])
    label = toy_mean_force(toy_system([(0, 1, k1), (1, 2, k2)], 3), positions, held=[0, 2])
    expected = k1 * k2 / (k1 + k2) * (positions[2] - positions[0]) * np.array([[1], [-1]])
    assert_within_errors(label.uniform_force, label.uniform_error, expected)
    # A map with a weight on the free particle removes all of the noise here.
    assert label.variance < 1e-3 * label.uniform_variance
    np.testing.assert_allclose(label.force, expected, atol=5e-3)


def test_the_mean_force_on_a_bead_with_a_rigid_bond_is_that_of_the_sphere_its_hydrogen_moves_on():
    # exp(-U/kT) over a sphere of radius d around the bead, D from the spring's other end: sinh(a D) / (a D) with a = k d / kT.
    k, d, kt = 1.5, 1.1, thermal_energy(300.0)
    positions = np.array([[0, 0, 0], [1.1, 0, 0], [2.0, 0, 0]])
    label = toy_mean_force(toy_system([(1, 2, k)], 3, [(0, 1, d)]), positions, held=[0, 2], rigid=[(0, 1)])
    distance = 2.0
    toward = k * distance - kt * (k * d / kt / np.tanh(k * d * distance / kt) - 1 / distance)
    expected = np.array([[toward, 0, 0], [-toward, 0, 0]])
    assert_within_errors(label.uniform_force, label.uniform_error, expected)
    assert_within_errors(label.force, label.error, expected)


def test_block_averages_find_the_error_of_a_correlated_series():
    random, correlation, n = np.random.default_rng(0), 0.95, 20_000
    series = np.zeros((n, 40))
    for i in range(1, n):
        series[i] = correlation * series[i - 1] + random.normal(size=40)
    exact = np.sqrt((1 + correlation) / (1 - correlation) / (1 - correlation**2) / n)
    error, inefficiency, independent = standard_error(series)
    assert independent
    assert np.sqrt(np.mean(error**2)) == pytest.approx(exact, rel=0.1)
    assert inefficiency == pytest.approx((1 + correlation) / (1 - correlation), rel=0.2)
    assert not standard_error(series[:200])[2]
    assert standard_error(random.normal(size=(n, 40)))[1] == pytest.approx(1, abs=0.2)


@pytest.fixture(scope="module")
def chignolin(chignolin_file):
    """Atoms, bonds, and four frames of positions and forces."""
    with open_mdcath(chignolin_file) as file:
        source = file.source("5awlA00")
        positions, forces = source.read(source.trajectories[0], 0, 4)
    return source.atoms, find_bonds(source.atoms, positions), positions, forces


def test_forces_of_the_model_are_those_of_the_simulation_the_frames_are_from(chignolin):
    atoms, bonds, positions, forces = chignolin
    model = build_model(atoms, bonds, "h-bonds", AllAtomConfig(), "here")
    np.testing.assert_allclose(model_forces(model, positions[:2], "CPU"), forces[:2], atol=2e-2)


def test_the_averaged_force_is_minus_the_difference_of_the_free_energy(chignolin):
    # Free energies by perturbation, from energies alone: a bead of chignolin and what is rigidly bonded to it moved by +-0.002 A.
    atoms, bonds, positions, _ = chignolin
    model = build_model(atoms, bonds, "h-bonds", AllAtomConfig(), "here")
    bead = atoms.find("CA", 6)[4]
    hydrogens = [i for i in bonds[(bonds == bead).any(axis=1)].ravel() if atoms.atomic_numbers[i] == 1]
    group = np.flatnonzero(np.isin(model.order, [bead, *hydrogens]))
    hold(model.system, np.flatnonzero(np.isin(model.order, atoms.find("CA", 6))))
    integrator = openmm.LangevinMiddleIntegrator(348.0, 1.0, 0.004)
    integrator.setRandomNumberSeed(1)
    context = new_context(model.system, integrator, "Reference")
    context.setPositions(positions[0][model.order].astype(float) / 10)
    context.setVelocitiesToTemperature(348.0, 1)

    def energy(x):
        context.setPositions(x)
        return context.getState(getEnergy=True).getPotentialEnergy()._value / 4.184

    forces, changes = [], []
    for _ in range(20):
        integrator.step(10)
        forces.append(forces_now(context)[group, 0].sum())
        here = context.getState(getPositions=True).getPositions(asNumpy=True)._value
        shift = np.zeros_like(here)
        shift[group, 0] = 0.0002
        now = energy(here)
        changes.append([energy(here + shift) - now, energy(here - shift) - now])
        context.setPositions(here)
    kt = thermal_energy(348.0)
    free = -kt * np.log(np.exp(-np.array(changes) / kt).mean(axis=0))
    assert len(group) == 2
    assert abs(np.mean(forces)) > 1
    assert -(free[0] - free[1]) / 0.004 == pytest.approx(np.mean(forces), abs=0.1)


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        (lambda atoms, bonds: (atoms, bonds[1:]), {}, r"residue \w+ 1 with 6 atoms is in none of amber14"),
        (
            lambda atoms, bonds: (dataclasses.replace(atoms, atomic_numbers=np.where(atoms.names == "CG", 7, atoms.atomic_numbers)), bonds),
            {},
            r"residue TYR 1 .* atoms are missing",
        ),
        (lambda atoms, bonds: (atoms, bonds), {"force_field": ("nowhere.xml",)}, "all_atom.force_field: .*nowhere.xml"),
    ],
)
def test_residues_the_force_field_does_not_know_are_named(chignolin, change, config, message):
    atoms, bonds = change(*chignolin[:2])
    with pytest.raises(UserError, match=message):
        build_model(atoms, bonds, "h-bonds", AllAtomConfig(**config), "here")


@pytest.fixture(scope="module")
def ordinary(chignolin_file, tmp_path_factory):
    """An ordinary dataset of chignolin; options of the local map, which is quick to fit."""
    return prepare(
        PrepareConfig.load(None, [f"inputs=[{chignolin_file}]", "force_map.kind=optimal-local", "select.stride=4"]),
        tmp_path_factory.mktemp("ordinary") / "dataset",
    )


def options(*inputs, **changes):
    return MeanForceConfig(**{"inputs": tuple(map(str, inputs)), "frames": 4, "sampling": SHORT, **changes})


@pytest.fixture(scope="module")
def labelled(ordinary, tmp_path_factory):
    return make_mean_forces(options(ordinary.path), tmp_path_factory.mktemp("labelled") / "dataset")


def test_labels_are_a_dataset_with_errors_and_weights_at_frames_of_the_ordinary_one(ordinary, labelled):
    assert verify(labelled.path) == []
    assert sorted(p.name for p in labelled.path.iterdir()) == ["config.yaml", "dataset.json", "domains"]
    frames, source = labelled.frames("5awlA00"), ordinary.frames("5awlA00")
    chosen = choose_label_frames(ordinary.domain("5awlA00"), MeanForceConfig().splits, 4)
    np.testing.assert_array_equal(frames.positions, source.positions[chosen])
    np.testing.assert_array_equal(labelled.source_frame("5awlA00"), ordinary.source_frame("5awlA00")[chosen])
    assert frames.weight.mean() == pytest.approx(1, rel=1e-5)
    precision = 1 / (1 + np.square(frames.force_error).mean(axis=(1, 2)))
    np.testing.assert_allclose(frames.weight, precision / precision.mean(), rtol=1e-4)
    scores = labelled.domain("5awlA00").force_map.scores
    assert scores["squared-error"] < 0.2 * scores["mean-force"]
    # Ordinary labels are the mean force and noise, which is independent of it.
    assert scores["ordinary"] == pytest.approx(scores["mean-force"] + scores["noise"], rel=0.4)


def test_the_mean_forces_that_are_shipped_are_sound_and_far_better_than_ordinary_labels():
    folder = Path(__file__).parent / "data" / "mean-forces"
    assert verify(folder) == []
    frames = open_dataset(folder).frames("5awlA00")
    error, rms = (np.sqrt(np.square(array).mean(axis=(1, 2))) for array in (frames.force_error, frames.forces))
    assert frames.n_frames == 24
    assert (error < 0.06 * rms).all()
    scores = open_dataset(folder).domain("5awlA00").force_map.scores
    assert scores["squared-error"] < 0.01 * scores["noise"]


def test_two_maps_have_the_same_mean_force_within_their_errors(labelled):
    note = labelled.domain("5awlA00").notes[-1]
    apart, expected = (float(note.split(word)[1].split()[0].strip(",;")) for word in ("uniform map's", "expected"))
    assert 0.6 < apart / expected < 1.5


def test_each_frame_keeps_its_split(ordinary, labelled):
    chosen = choose_label_frames(ordinary.domain("5awlA00"), MeanForceConfig().splits, 4)
    for name in ("train", "validation", "held_out_trajectories"):
        own = labelled.split(name).get("5awlA00", np.zeros(0, int))
        assert set(chosen[own]) == set(chosen) & set(ordinary.split(name)["5awlA00"])
    record = ordinary.domain("5awlA00")
    train = choose_label_frames(record, ("train",), 5)
    assert set(train) <= set(ordinary.split("train")["5awlA00"])
    assert [set(blocks) for blocks in restrict_segments(record, train)] == [{"train"}, set()]


def test_a_run_that_was_killed_continues_to_the_same_bytes(ordinary, labelled, tmp_path, monkeypatch):
    label_frame, made = mean_force_dataset.label_frame, []

    def killed_at_the_third(task):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(task.where)
        return label_frame(task)

    monkeypatch.setattr(mean_force_dataset, "label_frame", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        make_mean_forces(options(ordinary.path), tmp_path / "again")
    assert not (tmp_path / "again" / "dataset.json").exists()
    with pytest.raises(UserError, match=r"begun with other options \(seed\)"):
        make_mean_forces(options(ordinary.path, seed=1), tmp_path / "again")
    monkeypatch.setattr(mean_force_dataset, "label_frame", lambda task: made.append(task.where) or label_frame(task))
    again = make_mean_forces(options(ordinary.path), tmp_path / "again")
    assert len(made) == len(set(made)) == 4
    for name in ("forces", "force_error", "weight"):
        file = Path("domains") / "5awlA00" / f"{name}.npy"
        assert (again.path / file).read_bytes() == (labelled.path / file).read_bytes()
    make_mean_forces(options(ordinary.path), tmp_path / "again")
    assert len(made) == 4


def test_labels_of_another_dataset_are_not_taken_for_those_that_are_missing(ordinary, chignolin_file, tmp_path, monkeypatch):
    """Frames are counted in their dataset: frame 0 of another one has other atoms."""
    other = prepare(
        PrepareConfig.load(None, [f"inputs=[{chignolin_file}]", "force_map.kind=optimal-local", "select.replicas=[1]"]), tmp_path / "other"
    )
    expected = make_mean_forces(options(other.path, frames=1), tmp_path / "fresh").frames("5awlA00").forces
    run = mean_force_dataset._run

    def killed_before_the_domain_is_written(*arguments):
        run(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(mean_force_dataset, "_run", killed_before_the_domain_is_written)
    with pytest.raises(KeyboardInterrupt):
        make_mean_forces(options(ordinary.path, frames=1), tmp_path / "out")
    monkeypatch.setattr(mean_force_dataset, "_run", run)
    np.testing.assert_array_equal(make_mean_forces(options(other.path, frames=1), tmp_path / "out").frames("5awlA00").forces, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"splits": ()}, "no frame in the splits asked for .none.; expected some of train, validation"),
        ({"splits": ("held_out_domains",)}, "no frame in the splits asked for .held_out_domains."),
        ({"sampling": SamplingConfig(time_step_fs=30)}, "5awlA00: frame 0: the simulation became unstable"),
        ({"all_atom": AllAtomConfig(force_field=("amber96.xml",))}, "differ from the source's by .*accept another one with"),
        ({"all_atom": AllAtomConfig(platform="CUDA")}, "this OpenMM has no CUDA; it has Reference, CPU"),
        ({"prepare": PrepareConfig()}, "options of prepare are those of the dataset"),
        ({"inputs": ()}, "no input: give a dataset"),
    ],
)
def test_what_cannot_be_simulated_is_refused_in_one_line_and_leaves_nothing(ordinary, tmp_path, changes, message):
    if changes.get("all_atom") == AllAtomConfig(platform="CUDA") and openmm.Platform.getNumPlatforms() > 2:
        pytest.skip("there may be a CUDA platform here")
    with pytest.raises(UserError, match=message) as caught:
        make_mean_forces(options(ordinary.path, **changes), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_dataset_of_another_file_is_refused(ordinary, tmp_path):
    other = shutil.copytree(ordinary.path, tmp_path / "other")
    positions = np.load(other / "domains" / "5awlA00" / "positions.npy")
    np.save(other / "domains" / "5awlA00" / "positions.npy", positions + 1)
    with pytest.raises(UserError, match="1 angstrom away from the dataset's beads"):
        make_mean_forces(options(other), tmp_path / "out")
    with pytest.raises(UserError, match=r"its file mdcath_dataset_5awlA00.h5 is not among the inputs"):
        make_mean_forces(options(ordinary.path, Path(__file__).parent / "data" / "README.md"), tmp_path / "out")


def test_the_folder_of_another_command_is_named_as_that(ordinary, labelled, chignolin_file):
    """The message used to be of an unknown key in a file that the user had not written."""
    with pytest.raises(UserError, match=r"dataset: already exists and was not made by cg-data mean-force: choose another"):
        make_mean_forces(options(ordinary.path), ordinary.path)
    with pytest.raises(UserError, match=r"dataset: already exists and was not made by cg-data prepare: choose another"):
        prepare(PrepareConfig.load(None, [f"inputs=[{chignolin_file}]"]), labelled.path)


def test_without_openmm_the_extra_is_named(ordinary, tmp_path, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr("cg_data.all_atom.importlib.import_module", missing)
    with pytest.raises(UserError, match=r"pip install 'cg-data\[openmm\]'"):
        make_mean_forces(options(ordinary.path), tmp_path / "out")
