"""Double precision, like every package's tests: one process may run them all."""

import jax

jax.config.update("jax_enable_x64", True)
