"""The container of chemtrain-deploy, read back by the public message definition and run."""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from cg_data.errors import UserError
from cg_export.lammps.system import System
from cg_models.bundle import Bundle

pytest.importorskip("google.protobuf")

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from cg_export.artifact import graph_energy
from cg_export.chemtrain import chemtrain_function, export_chemtrain

# Names, numbers and types of chemtrain-deploy's public definition (github.com/tummfm/chemtrain, chemtrain-deploy/connector/model.proto
# in its first version), stated here once more, apart from the code that writes the file.
PUBLIC_DEFINITION = """
name: "model.proto" package: "chemsim" syntax: "proto2"
message_type {
  name: "Model"
  field { name: "mlir_module" number: 1 label: LABEL_REQUIRED type: TYPE_STRING }
  field { name: "neighbor_list" number: 4 label: LABEL_REQUIRED type: TYPE_MESSAGE type_name: ".chemsim.Model.NeighborList" }
  field { name: "unit_style" number: 5 label: LABEL_OPTIONAL type: TYPE_STRING }
  nested_type {
    name: "NeighborList"
    field { name: "type" number: 1 label: LABEL_REQUIRED type: TYPE_ENUM type_name: ".chemsim.Model.NeighborListType" }
    field { name: "cutoff" number: 2 label: LABEL_REQUIRED type: TYPE_FLOAT }
    field { name: "nbr_order" number: 3 label: LABEL_REPEATED type: TYPE_INT32 }
    field { name: "half_list" number: 4 label: LABEL_OPTIONAL type: TYPE_BOOL }
  }
  enum_type {
    name: "NeighborListType"
    value { name: "SIMPLE_SPARSE" number: 0 }
    value { name: "SIMPLE_DENSE" number: 2 }
    value { name: "DEVICE_SPARSE" number: 1 }
  }
}
"""


def test_file_is_read_back_by_the_public_message_definition(bundle: Bundle, tmp_path: Path) -> None:
    written = export_chemtrain(bundle, tmp_path / "model.ptb")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(PUBLIC_DEFINITION, descriptor_pb2.FileDescriptorProto()))
    model = message_factory.GetMessageClass(pool.FindMessageTypeByName("chemsim.Model")).FromString(written.read_bytes())
    assert model.unit_style == "real"
    assert model.neighbor_list.type == 0
    assert model.neighbor_list.cutoff == bundle.cutoff_angstrom
    assert list(model.neighbor_list.nbr_order) == [1, 2]
    assert model.neighbor_list.HasField("half_list")
    assert not model.neighbor_list.half_list
    assert model.SerializeToString() == written.read_bytes()
    head = next(line for line in model.mlir_module.splitlines() if "func.func public @main" in line)
    inputs = [piece.split()[0] for piece in head.split("%arg")[1:]]
    assert [kind.split(":")[0] for kind in inputs] == [str(k) for k in range(8)]
    for tensor in ("tensor<?x3xf32>", "tensor<?xi32>", "tensor<i1>", "tensor<?xi1>"):
        assert tensor in head


@pytest.mark.parametrize("newton", [True, False])
def test_function_gives_the_networks_forces_with_ghosts_and_padding(
    newton: bool, bundle: Bundle, chain_system: Callable[..., System]
) -> None:
    system = chain_system([12, 8], seed=3)
    n, n_local, padded = 20, 13, 24
    graph = bundle.graph(system.positions, list(system.names), system.residue_index, system.chain_index, rows=False)
    energies, forces = bundle.energy_and_forces(graph, part="backbone")
    positions = np.zeros((padded, 3), np.float32)
    positions[:n] = system.positions
    species = np.zeros(padded, np.int32)
    species[:n] = graph.species
    # Longer pairs and padding in the list, as engines send them.
    first, second = (np.concatenate([index, np.full(9, padded)]).astype(np.int32) for index in np.nonzero(~np.eye(n, dtype=bool)))
    function = jax.jit(chemtrain_function(graph_energy(bundle, "backbone"), bundle.cutoff_angstrom))
    room = np.zeros(len(graph.senders) + 5, bool)
    with jax.enable_x64(False):
        found, energy, needed, _ = function(positions, species, np.int32(n_local), np.int32(n - n_local), newton, first, second, room)
    assert int(needed) == len(graph.senders)
    assert float(energy) == pytest.approx(float(np.asarray(energies)[:n_local].sum()), rel=1e-5)
    if not newton:
        np.testing.assert_allclose(found[:n_local], np.asarray(forces)[:n_local], atol=2e-5 * np.abs(forces).max())
    assert not np.any(found[n:])


def test_model_without_a_network_is_refused(bundle: Bundle, make_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a model with a network, received mode prior"):
        export_chemtrain(make_bundle(bundle.prior, mode="prior"), tmp_path / "model.ptb")
