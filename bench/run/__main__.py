"""``python -m bench.run`` is the same as ``bench run``, as a plain Hydra app."""

from bench.process import guarded

with guarded():
    from bench.run.app import main

    main()
