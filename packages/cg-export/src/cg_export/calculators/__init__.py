"""The artifact outside LAMMPS: an ASE calculator, an OpenMM force, a jax-md energy function. Each module imports its program late."""
