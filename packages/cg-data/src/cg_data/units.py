"""The unit system of every package: LAMMPS `real`.

Length in angstrom, energy in kcal/mol, force in kcal/mol/angstrom, temperature in kelvin, time in picoseconds (LAMMPS
inputs: femtoseconds), mass in atomic mass units.
"""

BOLTZMANN_KCAL_PER_MOL_KELVIN = 0.0019872043
"""Boltzmann constant in kcal/mol/K (CODATA 2018, R/4184)."""

ACCELERATION_PER_FORCE = 418.4
"""angstrom/ps^2 per (kcal/mol/angstrom)/amu: 1 kcal/mol = 418.4 amu angstrom^2/ps^2 (exact)."""

KJ_PER_KCAL = 4.184
"""Thermochemical calorie (exact)."""


def thermal_energy(temperature_kelvin: float) -> float:
    """Return kB T in kcal/mol for a temperature in K."""
    return BOLTZMANN_KCAL_PER_MOL_KELVIN * temperature_kelvin
