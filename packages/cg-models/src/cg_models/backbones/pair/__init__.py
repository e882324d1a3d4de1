"""Pair: a sum over pairs, the honest small baseline."""
