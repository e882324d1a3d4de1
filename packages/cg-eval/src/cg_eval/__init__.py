"""Forces, simulations and plots that judge a coarse-grained force field."""

from importlib.metadata import version

__version__ = version("cg-eval")
