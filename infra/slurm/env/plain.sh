# Sourced by the job scripts, from the repository's root: a cluster where uv and Python are on PATH, or nothing needs loading.
# One environment serves all nodes: the root's .venv, on a file system that they share. Make it once, on the login node:
#   uv sync --frozen --extra cuda12     (or cuda13; without an extra for CPUs)
# Jobs only use it (`uv run --no-sync`): ranks that start together must not change it together.
export UV_NO_SYNC=1
export UV_PYTHON_DOWNLOADS=never
export PYTHONUNBUFFERED=1 # a line is in the log when it is printed
