"""``python -m bench.run`` is the same as ``bench run``, as a plain Hydra app."""

from bench.run.run import main

main()
