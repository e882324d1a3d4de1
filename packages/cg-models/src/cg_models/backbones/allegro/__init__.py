"""Allegro: strictly local equivariant network with energies of edges."""
