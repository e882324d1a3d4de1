"""How exactly matrix products of an energy are computed, whatever network it is, while everything else stays as it was."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jax.extend.core.primitives import dot_general_p

from cg_data.contracts import Array, BeadGraph, EnergyFn, Params
from cg_data.errors import require

FULL = jax.lax.Precision.HIGHEST
"""Products in the precision of their operands. JAX's default lets a GPU round float32 operands to TensorFloat-32, 10 bits."""
INLINED = ("jit", "pjit", "closed_call", "custom_vjp_call", "remat2", "checkpoint")


def require_precision(precision: str) -> None:
    """Raise `UserError` where JAX would compute in float32 what is asked for in float64."""
    require(
        jax.dtypes.canonicalize_dtype(precision) == precision,
        f"model: precision {precision}, but JAX runs in 32 bits: set the environment variable JAX_ENABLE_X64=1",
    )


def low_precision(energy: EnergyFn, matmul: str) -> EnergyFn:
    """Return the energy with the operands of its matrix products rounded to `matmul` (float32: as it is).

    tensorfloat32 is left to the device's products of float32: Nvidia's GPUs since Ampere round so, a CPU not at all.
    Products are accumulated in float32 and come out in the dtype they had. Derivatives are those of the rounded function, so the
    products of forces and of the loss's gradient are rounded too. Geometry, with its spherical harmonics, envelopes, sums and parameters
    stay as they were; inside loops (scan, while) nothing is changed.
    """
    if matmul == "float32":
        return energy
    dtype = jnp.dtype("float32" if matmul == "tensorfloat32" else matmul)

    def evaluate(params: Params, graph: BeadGraph) -> Array:
        leaves, structure = jax.tree.flatten((params, graph))
        closed = jax.make_jaxpr(lambda *flat: energy(*jax.tree.unflatten(structure, flat)))(*leaves)
        return _evaluate(closed.jaxpr, closed.consts, leaves, dtype)[0]

    return evaluate


def _evaluate(jaxpr: Jaxpr, consts: Sequence[Any], arguments: Sequence[Any], dtype: jnp.dtype) -> list[Any]:
    values: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments], strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr")) if equation.primitive.name in INLINED else None
        if equation.primitive is dot_general_p and jnp.issubdtype(operands[0].dtype, jnp.floating):
            results = [_product(operands[0], operands[1], equation.params, dtype)]
        elif isinstance(inner, ClosedJaxpr):
            results = _evaluate(inner.jaxpr, inner.consts, operands, dtype)
        else:
            found = equation.primitive.bind(*operands, **equation.primitive.get_bind_params(equation.params))
            results = found if equation.primitive.multiple_results else [found]
        values.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _product(a: Array, b: Array, parameters: dict[str, Any], dtype: jnp.dtype) -> Array:
    wanted = parameters["preferred_element_type"] or jnp.result_type(a, b)
    a, b, dimensions = a.astype(dtype), b.astype(dtype), parameters["dimension_numbers"]
    return jax.lax.dot_general(a, b, dimensions, jax.lax.Precision.DEFAULT, preferred_element_type=jnp.float32).astype(wanted)
