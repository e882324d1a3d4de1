"""Force matching of coarse-grained force fields on one or many nodes."""

from importlib.metadata import version

__version__ = version("cg-train")
