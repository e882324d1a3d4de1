# Sourced by the job scripts, from the repository's root: a cluster with environment modules (JUWELS-like).
# Copy it to env/<site>.sh, name your site's modules and submit with CG_SITE=<site>. Nothing else here knows the site.
source "infra/slurm/env/plain.sh"

module --force purge
module load "${CG_STAGE:-Stages/2025}"             # the site's software generation
module load "${CG_COMPILER:-GCC}" "${CG_PYTHON_MODULE:-Python}" # Python 3.11 or newer; GCC builds the LAMMPS plugin
# No CUDA module: the extra cuda12 (or cuda13) brings the CUDA libraries that JAX was built for, and another one's on
# LD_LIBRARY_PATH shadows them. The node's driver is all that is needed.

# Home is small and slow on such machines: packages and compiled programs go to the project's scratch file system.
export UV_CACHE_DIR="${SCRATCH:?set SCRATCH to a file system that all nodes share}/cache/uv"
export JAX_COMPILATION_CACHE_DIR="$SCRATCH/cache/jax"

# Several interfaces per node: collectives use the fast one.
export NCCL_SOCKET_IFNAME="${CG_INTERFACE:-ib0}"
