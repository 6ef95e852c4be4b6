"""A whole problem file, rounded layer by layer into a result file, on one machine or many."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from quiplinalg.model.executors import Workers
from quiplinalg.model.policy import read_policy
from quiplinalg.model.run import COMPARED_ROWS, Listener, ModelRun, run_model

__all__ = ["quantize_model"]


def quantize_model(
    source: str | os.PathLike,
    target: str | os.PathLike,
    *,
    config: str | os.PathLike | None = None,
    include: Iterable[str] | None = None,
    exclude: Iterable[str] | None = None,
    jobs: int | None = None,
    threads: int | None = None,
    max_memory: int | str | None = None,
    budget: float | str | None = None,
    overwrite: bool | None = None,
    resume: bool = False,
    retry_failed: bool = False,
    restart: bool = False,
    compare_rows: int | None = COMPARED_ROWS,
    workers: Workers | None = None,
    listener: Listener | None = None,
    **options: Any,
) -> ModelRun:
    """Round every layer of a problem file into a result file, and lose nothing on the way.

    Each layer becomes a file of its own in the directory ``target + ".run"``, on the disk before
    it is reported; at the end they become one file, in one step.  A run that was stopped, by
    whatever, goes on with ``resume=True``, and ends in the same bytes.

    Parameters
    ----------
    source : path
        A problem file; it is only read.
    target : path
        The result file to write.
    config : path, optional
        A TOML file of options and rules for layers by name, see `Policy`.  Arguments come first.
    include, exclude : iterables of str, optional
        Globs of layer names.
    jobs : int, optional
        Processes that work at once; default 1, this one.
    threads : int, optional
        Of each; default: the cores shared out among the jobs.
    max_memory : int or str, optional
        Bytes for all jobs together, or as "8 GB".  Layers that do not fit are worked on in tiles
        on the disk, where their method can.  Default: nine tenths of what is available.
    budget : float or str, optional
        How much the result may take, with ``bits`` several, as (2, 3, 4): bits a weight on average,
        or bytes as "3 GB"; codes, scales and all else.  Every layer is done at every width, from
        one factor of its Hessian, and the widths are chosen by the losses, each times the
        sensitivity of its layer in the file.
    overwrite : bool, optional
        Replace an existing ``target``, at the end.
    resume : bool
        Go on with the run of this target if there is one: the same options, the same inputs.
    retry_failed : bool
        Go on, and do the layers that failed again, with these options.
    restart : bool
        Throw away what an unfinished run of this target has done.
    compare_rows : int or None
        Rows on which each layer is compared with nearest rounding; None for all of them.
    workers : Workers, optional
        Where tasks run instead: `quiplinalg.model.executors` has ``dask(address)``, and ``given``
        for any Executor, as of loky or mpi4py.
    listener : callable, optional
        ``listener(event, facts)`` hears of "start", "layer", "layer_failed" and "warning".
    options
        What `LayerOptions` has: ``bits=2, method="gptq", group_size=128``, ...

    Returns
    -------
    ModelRun
        Which layers are done, with their losses, and which failed, with their errors: one bad
        layer does not stop the others.

    Raises
    ------
    InvalidArgumentError
        Options or paths that do not fit; an unfinished run, but neither ``resume`` nor
        ``retry_failed`` nor ``restart``; or one of other options or inputs.
    FormatError
        Not a problem file.
    InsufficientMemoryError
        Before anything is done: a layer that fits on no path.

    Notes
    -----
    n^3/3 + m n^2 flops a layer for `ldlq`; layers that share a Hessian share its factor.  Peak
    memory is that of the largest layer in progress, in each job.

    Examples
    --------
    >>> import os, tempfile, numpy as np, quiplinalg as ql
    >>> folder = tempfile.mkdtemp()
    >>> model, result = (os.path.join(folder, name) for name in ("model.h5", "model-2bit.h5"))
    >>> with ql.ProblemWriter(model) as file:
    ...     file.add("block/q", np.ones((8, 4)), np.eye(4))
    ...     file.add("block/k", np.ones((8, 4)), shared_hessian_of="block/q")
    >>> run = ql.quantize_model(model, result, bits=2)
    >>> [facts["layer"] for facts in run.done], run.failed
    (['block/k', 'block/q'], {})
    """
    settings = {
        "include": include, "exclude": exclude, "jobs": jobs, "threads": threads,
        "max_memory": max_memory, "budget": budget, "overwrite": overwrite,
    }  # fmt: skip
    given = {key: value for key, value in settings.items() if value is not None}
    return run_model(
        source, target, read_policy(config, options | given), resume=resume,
        retry_failed=retry_failed, restart=restart, compare_rows=compare_rows, workers=workers,
        listener=listener,
    )  # fmt: skip
