"""Boltzmann-inverted bond, angle, dihedral and repulsion priors for coarse-grained proteins."""

from importlib.metadata import version

__version__ = version("cg-priors")
