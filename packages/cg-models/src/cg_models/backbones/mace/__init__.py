"""MACE: message passing with many-body messages."""
