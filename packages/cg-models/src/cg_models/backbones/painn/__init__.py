"""PaiNN: polarizable atom interaction network, scalars and vectors."""
