"""Dynamics of systems whose ensembles are known.

Statistical tests compare a mean with its exact value in units of the standard error over independent replicas; 5 standard
errors, so a right program fails about once in two million runs.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cg_data.contracts import BeadFrames
from cg_data.errors import UserError
from cg_data.units import thermal_energy
from cg_eval.dynamics import Integration, kinetic_temperature, make_block, maxwell_momenta, start_motion
from cg_eval.replicas import make_replicas
from cg_eval.simulate import SimulateConfig, run_dynamics, starting_frames
from cg_eval.stability import PhysicalRange, range_check
from cg_eval.tempering import exchange
from cg_models.forces import energy_and_forces

WIDE = {
    "smallest_bond_angstrom": 1e-6,
    "largest_bond_angstrom": 1e6,
    "smallest_angle_degrees": 0.0,
    "largest_relative_rg": 1e6,
    "smallest_distance_angstrom": 0.0,
}
BONDS_ONLY = WIDE | {"smallest_bond_angstrom": 2.3, "largest_bond_angstrom": 5.2}
MASS = 110.0


def harmonic_bonds(params, graph):
    """1/2 k (r - 3.8)^2 along bonds."""
    ends = graph.positions[graph.bonds]
    r = jnp.sqrt(((ends[:, 1] - ends[:, 0]) ** 2).sum(-1))
    energies = jnp.zeros_like(graph.positions[:, 0])
    return energies.at[graph.bonds[:, 0]].add(0.5 * params["k"] * (r - 3.8) ** 2)


def harmonic_wells(params, graph):
    """1/2 k |x|^2 on every bead."""
    return 0.5 * params["k"] * (graph.positions**2).sum(-1)


def double_wells(params, graph):
    """h (x^2 - 1)^2 + 1/2 k (y^2 + z^2) on every bead."""
    x, y, z = graph.positions.T
    return params["h"] * (x**2 - 1) ** 2 + 0.5 * params["k"] * (y**2 + z**2)


def start_at(positions):
    x = np.asarray(positions, np.float32)
    n_replicas, n_beads, _ = x.shape
    index = np.arange(n_beads, dtype=np.int32)
    return BeadFrames(
        positions=x,
        forces=None,
        species=np.zeros(n_beads, np.int32),
        residue_index=index,
        chain_index=np.zeros(n_beads, np.int32),
        temperature=np.full(n_replicas, 300, np.float32),
        trajectory=np.zeros(n_replicas, np.int32),
    )


def zigzag(n_replicas, n_beads):
    x = np.zeros((n_replicas, n_beads, 3))
    x[:, :, 0], x[:, :, 1] = 3.2 * np.arange(n_beads), 2.05 * (np.arange(n_beads) % 2)
    return start_at(x)


def run(energy, params, start, cutoff=8.0, **options):
    config = SimulateConfig(n_replicas=start.n_frames, **{"physical_range": WIDE, "temperature_kelvin": 320.0, **options})
    params = {name: jnp.asarray(value, config.precision) for name, value in params.items()}
    return run_dynamics(energy, params, cutoff, start, np.full(start.n_beads, MASS), config)


def assert_mean(of_replicas, expected):
    """of_replicas: one independent value per replica."""
    error = np.std(of_replicas, ddof=1) / np.sqrt(len(of_replicas))
    assert abs(np.mean(of_replicas) - expected) < 5 * error, (np.mean(of_replicas), expected, error)


def test_langevin_samples_the_harmonic_ensemble():
    start = start_at(np.full((16, 4, 3), 0.1) * np.arange(4)[None, :, None])
    result = run(
        harmonic_wells, {"k": 1.0}, start, n_steps=4000, save_every_steps=20, time_step_ps=0.05, temperature_kelvin=300.0, cutoff=1e-3
    )
    later = slice(len(result.time_ps) // 6, None)
    spread = (result.positions[later] ** 2).mean(axis=(0, 2, 3))
    assert_mean(spread, thermal_energy(300.0))
    assert_mean(result.kinetic_temperature[later].mean(axis=0), 300.0)
    assert_mean(result.potential_energy[later].mean(axis=0), 1.5 * 4 * thermal_energy(300.0))


def test_langevin_samples_the_double_well_ensemble():
    temperature, height = 300.0, 1.0
    start = start_at(np.concatenate([np.full((16, 8, 1), -1.0), np.zeros((16, 8, 2))], axis=2))
    start = dataclasses.replace(start, positions=start.positions * np.where(np.arange(8) % 2, 1, -1)[None, :, None].astype(np.float32))
    result = run(
        double_wells,
        {"h": height, "k": 5.0},
        start,
        n_steps=6000,
        save_every_steps=20,
        time_step_ps=0.02,
        temperature_kelvin=temperature,
        cutoff=1e-3,
    )
    x = result.positions[len(result.time_ps) // 5 :, :, :, 0]
    grid = np.linspace(-3, 3, 20_001)
    weight = np.exp(-height * (grid**2 - 1) ** 2 / thermal_energy(temperature))
    assert_mean((x**2).mean(axis=(0, 2)), (weight * grid**2).sum() / weight.sum())
    assert_mean((np.abs(x) < 0.5).mean(axis=(0, 2)), weight[np.abs(grid) < 0.5].sum() / weight.sum())
    assert (np.sign(x[1:]) != np.sign(x[:-1])).any()


def test_bond_lengths_follow_the_boltzmann_density_with_its_jacobian():
    result = run(harmonic_bonds, {"k": 60.0}, zigzag(16, 6), n_steps=5000, save_every_steps=20, temperature_kelvin=350.0)
    ends = result.positions[80:]
    r = np.linalg.norm(np.diff(ends, axis=2), axis=-1)
    grid = np.linspace(2.8, 4.8, 4001)
    weight = grid**2 * np.exp(-30.0 * (grid - 3.8) ** 2 / thermal_energy(350.0))
    mean = (weight * grid).sum() / weight.sum()
    assert_mean(r.mean(axis=(0, 2)), mean)
    assert_mean(((r - mean) ** 2).mean(axis=(0, 2)), (weight * (grid - mean) ** 2).sum() / weight.sum())


def test_tempering_samples_every_temperature_of_the_ladder():
    temperatures = (250.0, 300.0, 360.0)
    start = start_at(np.full((24, 4, 3), 0.1) * np.arange(4)[None, :, None])
    options = {"n_steps": 4000, "save_every_steps": 20, "time_step_ps": 0.05, "cutoff": 1e-3}
    result = run(harmonic_wells, {"k": 1.0}, start, ensemble="tempering", tempering_kelvin=temperatures, **options)
    tried, exchanged = result.exchanges
    assert 0.3 < exchanged / tried < 0.95
    later = slice(len(result.time_ps) // 6, None)
    for temperature in temperatures:
        # One ladder of three replicas is one independent sample of each temperature.
        mask = (np.abs(result.bath_temperature[later] - temperature) < 0.5).reshape(-1, 8, 3)
        energies = result.potential_energy[later].reshape(-1, 8, 3)
        assert (mask.sum(axis=2) == 1).all()
        assert_mean((energies * mask).sum(axis=(0, 2)) / mask.sum(axis=(0, 2)), 1.5 * 4 * thermal_energy(temperature))
        assert result.frames(temperature_kelvin=temperature).n_frames == len(result.time_ps[1:]) * 8


def test_tempering_samples_a_double_well_whose_barrier_its_lowest_temperature_does_not_cross():
    """A barrier of five kT at 150 K; each bead starts in one well, and at each temperature comes to be in both equally."""
    temperatures, height = (150.0, 260.0, 450.0), 1.5
    wells = np.where(np.arange(4) % 2, 1.0, -1.0)
    start = start_at(np.stack([np.tile(wells, (36, 1)), np.zeros((36, 4)), np.zeros((36, 4))], axis=2))
    options = {"n_steps": 9000, "save_every_steps": 20, "time_step_ps": 0.03, "cutoff": 1e-3}
    result = run(double_wells, {"h": height, "k": 5.0}, start, ensemble="tempering", tempering_kelvin=temperatures, **options)
    later = slice(len(result.time_ps) // 4, None)
    grid = np.linspace(-3, 3, 20_001)
    # Positive: the well in which the bead did not start.
    x = (result.positions[later, :, :, 0] * -wells).reshape(-1, 12, 3, 4)
    for temperature in temperatures:
        mask = (np.abs(result.bath_temperature[later] - temperature) < 0.5).reshape(-1, 12, 3)
        weight = np.exp(-height * (grid**2 - 1) ** 2 / thermal_energy(temperature))
        chosen = (x * mask[..., None]).sum(axis=2)
        assert_mean((chosen**2).mean(axis=(0, 2)), (weight * grid**2).sum() / weight.sum())
        assert_mean((chosen > 0).mean(axis=(0, 2)), 0.5)


@pytest.mark.parametrize(("energies", "accepted"), [((5.0, -5.0), 1), ((-500.0, 500.0), 0)])
def test_an_exchange_that_lowers_the_cold_energy_is_always_made(energies, accepted):
    motion = start_motion(np.zeros((2, 3, 3)), np.full(3, MASS), np.array([300.0, 400.0]), 0, at_rest=False)
    motion = motion._replace(potential_energy=jnp.asarray(energies))
    after, tried, exchanged = exchange(motion, 2, 0, seed=0)
    assert (tried, exchanged) == (1, accepted)
    ratio = np.asarray(after.momenta[0] / motion.momenta[0])
    np.testing.assert_allclose(ratio, np.sqrt(400 / 300) if accepted else 1.0, rtol=1e-6)
    assert after.temperature.tolist() == ([400.0, 300.0] if accepted else [300.0, 400.0])


def test_tempering_without_temperatures_is_refused():
    with pytest.raises(ValueError, match="only then"):
        SimulateConfig(ensemble="tempering")


def energy_drift(time_step_ps):
    result = run(
        harmonic_bonds,
        {"k": 60.0},
        zigzag(2, 8),
        ensemble="nve",
        n_steps=round(4.0 / time_step_ps),
        save_every_steps=round(0.2 / time_step_ps),
        time_step_ps=time_step_ps,
        precision="float64",
    )
    kinetic = 0.5 * (3 * 8 - 3) * thermal_energy(1.0) * result.kinetic_temperature
    total = result.potential_energy + kinetic
    return np.abs(total - total[0]).max()


def test_nve_energy_error_is_second_order_in_the_time_step():
    errors = [energy_drift(step) for step in (0.02, 0.01, 0.005)]
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert (np.abs(orders - 2) < 0.35).all(), (errors, orders)
    assert errors[-1] < 0.02


def test_a_known_drift_of_the_total_energy_and_the_cost_are_stated():
    """0.02 kcal/mol/ps per bead put in, on top of what the kinetic energy takes from the potential; a stopped replica counts till then."""
    result = run(harmonic_bonds, {"k": 60.0}, zigzag(3, 5), ensemble="nve", n_steps=200, save_every_steps=10, precision="float64")
    degrees = 3 * 5 - 3
    kinetic = 0.5 * degrees * thermal_energy(1.0) * result.kinetic_temperature
    valid = result.valid.copy()
    valid[10:, 2] = False
    potential = np.where(valid, 7.0 - kinetic + np.array([0.02, 0.02, -0.04]) * 5 * result.time_ps[:, None], np.nan)
    peaks = {"peak_resident_bytes": 1_500_000_000, "peak_device_bytes": 250_000_000}
    made = dataclasses.replace(result, potential_energy=potential, valid=valid, replica_steps_per_second=1000.0, **peaks)
    np.testing.assert_allclose(made.energy_drift(), [0.02, 0.02, -0.04])
    values = made.to_dict()
    assert values["energy_drift_kcal_per_mol_per_ps_per_bead"] == pytest.approx(0.0, abs=1e-9)
    assert values["largest_energy_drift_kcal_per_mol_per_ps_per_bead"] == pytest.approx(0.04)
    assert values["ns_per_day"] == pytest.approx(1000 * 1e-5 * 86400)
    assert "NVE, started at 320 K" in made.table()
    assert "864.0 ns/day" in made.table()
    assert "peak memory 1.50 GB of the process, 0.25 GB of a device" in made.table()
    assert "0.04" in made.table()
    assert abs(result.energy_drift()).max() < 0.02
    assert result.peak_resident_bytes > 50_000_000  # jaxlib alone takes more
    langevin = dataclasses.replace(made, config=made.config.model_copy(update={"ensemble": "langevin"}))
    assert langevin.to_dict()["energy_drift_kcal_per_mol_per_ps_per_bead"] is None
    assert "drift" not in langevin.table()


def test_nve_starts_at_rest_and_stays_there():
    result = run(harmonic_bonds, {"k": 60.0}, zigzag(3, 5), ensemble="nve", n_steps=200, save_every_steps=100, precision="float64")
    np.testing.assert_allclose(result.positions.mean(axis=2), 0, atol=1e-5)


def test_momenta_are_drawn_at_the_temperature_of_each_replica():
    temperature = jnp.array([100.0, 400.0])
    masses = np.linspace(50.0, 200.0, 2000)
    for at_rest in (False, True):
        momenta = maxwell_momenta(jax.random.key(0), masses, temperature, at_rest)
        found = kinetic_temperature(momenta, masses, at_rest)
        np.testing.assert_allclose(found, temperature, rtol=5 * np.sqrt(2 / 6000))
    np.testing.assert_allclose(momenta.sum(axis=1), 0, atol=1e-8)


def test_a_replica_that_fails_stops_with_its_reason_and_the_others_go_on():
    def force_field(params, graph):
        """Bonds hold, but beads of the second replica are pulled apart."""
        pull = jnp.where(graph.frame == 1, -params["pull"], 0.0)
        return harmonic_bonds(params, graph) + pull * graph.positions[:, 0] * jnp.where(graph.residue_index == 0, -1.0, 1.0)

    result = run(force_field, {"k": 60.0, "pull": 100.0}, zigzag(3, 5), n_steps=400, save_every_steps=50, physical_range=BONDS_ONLY)
    assert [outcome.reason for outcome in result.outcomes] == [None, "bond out of range", None]
    stopped = result.outcomes[1].stopped_at_ps
    assert 0 < stopped < 4.0
    assert result.valid[:, 1].tolist() == (result.time_ps < stopped).tolist()
    assert result.valid[:, [0, 2]].all()
    assert np.isfinite(result.positions).all()
    assert result.survival()[-1] == pytest.approx(2 / 3)
    assert set(result.frames().trajectory.tolist()) == {0, 2}
    assert result.frames().n_frames == result.valid[1:].sum()


def test_not_finite_forces_stop_a_replica_before_they_reach_its_positions():
    def force_field(params, graph):
        return harmonic_bonds(params, graph) + jnp.where(graph.frame == 0, jnp.nan, 0.0) * graph.positions[:, 0]

    result = run(force_field, {"k": 60.0}, zigzag(2, 5), n_steps=100, save_every_steps=50)
    assert "not finite" in result.outcomes[0].reason
    assert result.outcomes[1].reason is None
    assert np.isfinite(result.positions).all()


def test_a_run_whose_replicas_have_all_failed_ends_early():
    result = run(harmonic_bonds, {"k": -500.0}, zigzag(2, 5), n_steps=5000, save_every_steps=50, physical_range=BONDS_ONLY)
    assert not result.valid[-1].any()
    assert len(result.time_ps) < 20


def attraction(params, graph):
    """A smooth pull between all pairs within 8 A: beads collapse and gain neighbours."""
    apart = graph.positions[graph.receivers] - graph.positions[graph.senders]
    squared = jnp.where(graph.edge_mask, (apart**2).sum(-1), 64.0)
    pair = jnp.where(graph.edge_mask, -0.5 * params["depth"] * (1 - squared / 64.0) ** 2, 0.0)
    return harmonic_bonds(params, graph) + pair.sum(axis=1)


def test_more_neighbours_than_planned_are_given_room_and_change_nothing(monkeypatch):
    options = dict(n_steps=200, save_every_steps=50, precision="float64")
    params = {"k": 60.0, "depth": 3.0}
    import cg_eval.simulate

    monkeypatch.setattr(cg_eval.simulate, "NEIGHBOUR_MARGIN", 1e6)
    roomy = run(attraction, params, zigzag(2, 12), **options)
    monkeypatch.setattr(cg_eval.simulate, "NEIGHBOUR_MARGIN", 0.0)
    tight = run(attraction, params, zigzag(2, 12), **options)
    assert roomy.room_growths == 0
    assert tight.room_growths > 0
    np.testing.assert_allclose(tight.positions, roomy.positions, atol=1e-5)


def test_replicas_taken_a_few_at_a_time_move_as_all_together():
    start = zigzag(6, 5)
    replicas = make_replicas(6, start.species, start.residue_index, start.chain_index)
    temperature = np.linspace(200.0, 500.0, 6)
    motion = start_motion(np.asarray(start.positions, np.float64), np.full(5, MASS), temperature, 0, at_rest=False)
    check = range_check(replicas, PhysicalRange(**WIDE), start.positions)
    arguments = (np.full(5, MASS), energy_and_forces(harmonic_bonds), 8.0, 2, check, Integration(0.01, 1.0))
    found = [make_block(replicas, *arguments, n_at_once)({"k": jnp.asarray(60.0)}, motion, 20) for n_at_once in (None, 4, 1)]
    assert np.abs(found[0].positions - motion.positions).max() > 0.01
    for other in found[1:]:
        assert int(other.step) == 20
        assert int(other.most_neighbours) == int(found[0].most_neighbours) > 0
        np.testing.assert_allclose(other.positions, found[0].positions, rtol=0, atol=1e-12)


def test_same_seed_gives_the_same_trajectory_and_another_seed_another():
    runs = [run(harmonic_bonds, {"k": 60.0}, zigzag(2, 5), n_steps=100, save_every_steps=100, seed=seed) for seed in (1, 1, 2)]
    assert (runs[0].positions == runs[1].positions).all()
    assert (runs[0].positions[-1] != runs[2].positions[-1]).any()


def test_dynamics_stay_in_single_precision_where_double_is_enabled():
    seen = []

    def energy(params, graph):
        seen.append(graph.positions.dtype)
        return harmonic_bonds(params, graph)

    run(energy, {"k": 60.0}, zigzag(1, 4), n_steps=2, save_every_steps=2, precision="float32")
    assert set(seen) == {np.dtype("float32")}


def test_double_precision_is_double_where_jax_was_not_told():
    """As from the command line, where JAX makes float32 of all it is given."""
    seen = []

    def energy(params, graph):
        seen.append(graph.positions.dtype)
        return harmonic_bonds(params, graph)

    config = SimulateConfig(
        n_replicas=2, n_steps=20, save_every_steps=10, precision="float64", temperature_kelvin=320.0, physical_range=PhysicalRange(**WIDE)
    )
    arguments = ({"k": np.float32(60.0)}, 8.0, zigzag(2, 5), np.full(5, MASS), config)
    expected = run_dynamics(harmonic_bonds, *arguments)
    with jax.enable_x64(False):
        found = run_dynamics(energy, *arguments)
        assert jnp.zeros(()).dtype == np.float32
    assert set(seen) == {np.dtype("float64")}
    np.testing.assert_array_equal(found.potential_energy, expected.potential_energy)
    assert (found.potential_energy != found.potential_energy.astype(np.float32)).any()


def test_a_start_outside_the_physical_range_is_refused():
    x = np.array(zigzag(2, 5).positions)
    x[1, 3] = x[1, 2] + 0.1
    with pytest.raises(UserError, match="starting frame 1 is outside the physical range"):
        run(harmonic_bonds, {"k": 60.0}, start_at(x), n_steps=10, save_every_steps=10, physical_range={})


def test_steps_that_are_not_a_multiple_of_the_saving_interval_are_refused():
    with pytest.raises(ValueError, match="multiple"):
        SimulateConfig(n_steps=101, save_every_steps=50)


def test_starting_frames_come_from_the_nearest_temperature_and_are_spread_over_it():
    frames = zigzag(10, 4)
    frames = dataclasses.replace(frames, temperature=np.repeat([300.0, 400.0], 5).astype(np.float32))
    frames.positions[:, 0, 2] = np.arange(10)
    assert starting_frames(frames, 3, 390.0).positions[:, 0, 2].tolist() == [5, 6, 8]
    assert starting_frames(frames, 2).positions[:, 0, 2].tolist() == [0, 5]
    assert starting_frames(frames, 7, 310.0).n_frames == 7
