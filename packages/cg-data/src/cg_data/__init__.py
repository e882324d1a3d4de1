"""All-atom protein trajectories with forces to coarse-grained bead datasets."""

from importlib.metadata import version

__version__ = version("cg-data")
