"""Coarse-grained force fields as StableHLO artifacts that run in LAMMPS."""

from importlib.metadata import version

__version__ = version("cg-export")
