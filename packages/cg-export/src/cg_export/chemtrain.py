"""The network in the container that chemtrain-deploy's `pair_style chemtrain_deploy` reads. Needs cg-export[chemtrain].

One protobuf message `Model`: an MLIR module as text, the neighbour list that it wants, and LAMMPS's unit style. Field numbers and
the module's signature are those of the package's first public version (github.com/tummfm/chemtrain: chemtrain-deploy/connector/model.proto,
chemtrain/deploy/exporter.py and graphs.py; doi:10.1021/acs.jctc.5c00996); later ones add fields. The format has no bonded
tuples and no sequence separation, so it holds the network alone, and the prior runs in LAMMPS's own styles.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from jax import export

from cg_data.atomic import atomic_file
from cg_data.contracts import Array, BeadGraph
from cg_data.errors import require
from cg_export.artifact import Precision, graph_energy, with_precision
from cg_export.lower import GraphEnergy
from cg_models.bundle import Bundle

ARGUMENTS = ("position", "species", "n_local", "n_ghost", "newton", "senders", "receivers", "max_edges")
SIMPLE_SPARSE = 0


def model_message() -> Any:
    """Return the class of the protobuf message `Model`, its fields numbered as chemtrain-deploy's."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="cg_export/chemtrain.proto", package="chemsim", syntax="proto2")
    model = file.message_type.add(name="Model")
    kinds = model.enum_type.add(name="NeighborListType")
    for name, number in {"SIMPLE_SPARSE": SIMPLE_SPARSE, "DEVICE_SPARSE": 1, "SIMPLE_DENSE": 2}.items():
        kinds.value.add(name=name, number=number)
    model.field.add(name="mlir_module", number=1, type=field.TYPE_STRING, label=field.LABEL_REQUIRED)
    model.field.add(
        name="neighbor_list",
        number=4,
        type=field.TYPE_MESSAGE,
        label=field.LABEL_REQUIRED,
        type_name=".chemsim.Model.NeighborList",
    )
    model.field.add(name="unit_style", number=5, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    neighbours = model.nested_type.add(name="NeighborList")
    neighbours.field.add(
        name="type", number=1, type=field.TYPE_ENUM, label=field.LABEL_REQUIRED, type_name=".chemsim.Model.NeighborListType"
    )
    neighbours.field.add(name="cutoff", number=2, type=field.TYPE_FLOAT, label=field.LABEL_REQUIRED)
    neighbours.field.add(name="nbr_order", number=3, type=field.TYPE_INT32, label=field.LABEL_REPEATED)
    neighbours.field.add(name="half_list", number=4, type=field.TYPE_BOOL, label=field.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("chemsim.Model"))


def chemtrain_function(energy: GraphEnergy, cutoff_angstrom: float) -> Any:
    """Return the function in chemtrain-deploy's signature.

    Arguments: position [n, 3] float32 angstrom, species [n] int32 (LAMMPS types from 0), n_local, n_ghost () int32, newton () bool,
    senders and receivers [m] int32 of a full list, where any index without a bead is padding, max_edges [k] bool, of which
    only the length counts: edges kept. Returns forces [n, 3], energy of local beads (), the number of edges within the cutoff
    twice: what the engine sizes k by. With newton, forces are minus the gradient of the local energy with respect to all
    beads; without, of the energy of all beads, right for the local ones.
    """

    def evaluate(
        position: Array, species: Array, n_local: Array, n_ghost: Array, newton: Array, senders: Array, receivers: Array, max_edges: Array
    ) -> tuple[Array, ...]:
        n = position.shape[0]
        index = jnp.arange(n, dtype=jnp.int32)
        is_bead, is_local = index < n_local + n_ghost, index < n_local
        inside = (senders >= 0) & (senders < n_local + n_ghost) & (receivers >= 0) & (receivers < n_local + n_ghost)
        first, second = jnp.where(inside, senders, 0), jnp.where(inside, receivers, 0)
        squared = jnp.sum((position[first] - position[second]) ** 2, axis=1)
        near = inside & (squared > 0) & (squared < cutoff_angstrom**2)
        n_near = near.sum(dtype=jnp.int32)
        # Edges beyond the room that the engine reserved are dropped; it sees their number, and runs again with more.
        place = jnp.where(near, jnp.cumsum(near) - 1, max_edges.shape[0])
        kept = jnp.zeros(max_edges.shape[0] + 1, jnp.int32)
        edge_mask = jnp.arange(max_edges.shape[0]) < n_near
        none = jnp.zeros((0,), bool)

        def total(position: Array) -> tuple[Array, Array]:
            graph = BeadGraph(
                positions=position,
                species=species,
                residue_index=index,
                chain_index=jnp.zeros_like(index),
                frame=jnp.zeros_like(index),
                bead_mask=is_bead,
                # The listing bead is the first of a pair; its energy is the receiver's.
                senders=kept.at[place].set(second, mode="drop")[:-1],
                receivers=kept.at[place].set(first, mode="drop")[:-1],
                edge_mask=edge_mask,
                bonds=jnp.zeros((0, 2), jnp.int32),
                bond_mask=none,
                angles=jnp.zeros((0, 3), jnp.int32),
                angle_mask=none,
                dihedrals=jnp.zeros((0, 4), jnp.int32),
                dihedral_mask=none,
            )
            energies = energy(graph)
            local = jnp.where(is_local, energies, 0.0).sum()
            return jnp.where(newton, local, jnp.where(is_bead, energies, 0.0).sum()), local

        gradient, local = jax.grad(total, has_aux=True)(position)
        return -gradient, local, n_near, n_near

    return evaluate


def neighbour_orders(bundle: Bundle) -> tuple[int, int]:
    """Return how many cutoffs of neighbours right forces need, with Newton's third law across ranks and without."""
    hops = max(round(bundle.receptive_field_angstrom / bundle.cutoff_angstrom), 1)
    return hops, 2 * hops


def export_chemtrain(bundle: Bundle, output: Path | str, precision: Precision = "float32", platform: str = "cuda") -> Path:
    """Write the network of a bundle as chemtrain-deploy's `.ptb` file; return its path.

    LAMMPS types must be the bundle's species in their order. Raises `UserError` where the bundle has no network or the file exists.
    """
    require("backbone" in bundle.params, f"chemtrain format: expected a model with a network, received mode {bundle.config.mode}")
    require(precision == "float32", f"chemtrain format: its positions are float32; expected precision float32, received {precision}")
    output = Path(output)
    require(not output.exists(), f"{output}: already exists; expected a new file: choose another or remove it")
    with jax.enable_x64(False):
        single = with_precision(bundle, "float32")
        function = chemtrain_function(graph_energy(single, "backbone"), single.cutoff_angstrom)
        text = export.export(jax.jit(function, keep_unused=True), platforms=[platform])(*_symbolic_arguments()).mlir_module()
    message = model_message()()
    message.mlir_module = text
    message.unit_style = "real"
    message.neighbor_list.type = SIMPLE_SPARSE
    message.neighbor_list.cutoff = bundle.cutoff_angstrom
    message.neighbor_list.nbr_order.extend(neighbour_orders(bundle))
    message.neighbor_list.half_list = False
    with atomic_file(output) as aside:
        aside.write_bytes(message.SerializeToString())
    return output


def _symbolic_arguments() -> list[jax.ShapeDtypeStruct]:
    sizes = export.symbolic_shape("n_atoms, max_buffers, max_edges", constraints=["max_edges <= 2*max_buffers"])
    beads, listed, kept = sizes
    shapes: list[tuple[tuple[Any, ...], type]] = [
        ((beads, 3), np.float32),
        ((beads,), np.int32),
        ((), np.int32),
        ((), np.int32),
        ((), np.bool_),
        ((listed,), np.int32),
        ((listed,), np.int32),
        ((kept,), np.bool_),
    ]
    return [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes]
