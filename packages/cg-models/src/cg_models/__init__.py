"""Equivariant networks and hybrid energies for coarse-grained proteins."""

from importlib.metadata import version

__version__ = version("cg-models")
