"""Force matching of coarse-grained force fields on one or many nodes: `from cg_train.run import run`."""

from importlib.metadata import version

__version__ = version("cg-train")
