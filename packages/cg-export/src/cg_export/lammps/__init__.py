"""The model inside LAMMPS: plugin sources, data and input files, runs."""
