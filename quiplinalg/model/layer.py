"""One task of a run: the layers of one Hessian, from the problem file to their shards.

A task is a dictionary of paths, names and options, never of arrays, so that any executor can carry
it; whoever runs it opens the files itself.  What comes back is a list of facts, one a layer.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
import traceback
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from quiplinalg.errors import QuipLinalgError
from quiplinalg.files.image import layer_image
from quiplinalg.files.problem import open_problem
from quiplinalg.kernels.record import select
from quiplinalg.model.comparison import column_blocks, compare, source_blocks
from quiplinalg.model.options import LayerOptions
from quiplinalg.model.run_directory import write_shard
from quiplinalg.parallel import num_threads
from quiplinalg.rounding.out_of_core import OutOfCoreHessian
from quiplinalg.rounding.prepared import PreparedHessian, prepare

if TYPE_CHECKING:
    from quiplinalg.files.problem import ProblemReader
    from quiplinalg.results import Quantized

__all__ = ["names", "run_task"]

Facts = dict[str, Any]


def run_task(task: dict[str, Any]) -> list[Facts]:
    """Round the layers of a task, each into a shard of its own.

    Parameters
    ----------
    task : dict
        ``source`` and ``run``, the paths of the problem file and of the run directory; ``layers``,
        a list of {``name``, ``key`` (of the record), ``options`` (of `LayerOptions.to_json`),
        ``path`` ("memory" or "tiles")}; ``threads`` or None; ``memory``, bytes for a layer on
        tiles; ``rows`` to compare on, or None for all.

    Returns
    -------
    list of dict
        Facts about each layer: with "shard" where it is safely written, with "error" where not.
        What one layer raises does not stop the others.
    """
    threads = task["threads"]
    with nullcontext() if threads is None else num_threads(threads):
        try:
            wanted = [each["name"] for each in task["layers"]]  # of thousands, perhaps
            problem = open_problem(task["source"], names=wanted)
        except (QuipLinalgError, OSError) as error:
            return [names(each) | _failure(error) for each in task["layers"]]
        with problem, _Task(task, problem) as work:
            return work.run()


def names(layer: Facts) -> Facts:
    """Return what the facts about a layer of a task begin with.

    Parameters
    ----------
    layer : dict
        With "name" and "key".
    """
    same = layer["key"] == layer["name"]
    return {"layer": layer["name"]} | ({} if same else {"key": layer["key"]})


class _Task:
    """What the layers of a task share: the file, a weight, the Hessian, and its factor."""

    def __init__(self, task: dict[str, Any], problem: ProblemReader):
        self.task, self.problem = task, problem
        self.hasher = ThreadPoolExecutor(1)  # while the layer is rounded
        self.weight: tuple[str, np.ndarray, Future[tuple[str, str]]] | None = None  # by name
        self.hessian: tuple[str, np.ndarray] | None = None  # by key
        self.prepared: tuple[Any, PreparedHessian] | None = None  # by what it depends on
        self.tiles: tuple[Any, OutOfCoreHessian] | None = None  # likewise
        self.options = [LayerOptions.from_json(each["options"]) for each in task["layers"]]

    def run(self) -> list[Facts]:
        found = []
        for index in range(len(self.options)):
            layer = self.task["layers"][index]
            facts = names(layer)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                try:
                    facts |= self._layer(index, layer["name"])
                except Exception as error:  # a layer that fails, of whatever, leaves the others
                    facts |= _failure(error)
            facts["warnings"] = [str(each.message) for each in caught]
            found.append(facts)
        return found

    def _layer(self, index: int, name: str) -> Facts:
        task, options, problem = self.task, self.options[index], self.problem
        info = problem.info(name)
        _check_space(task["run"], info.shape, options.bits)
        before = os.stat(task["source"])
        W, inputs = self._read_weight(name)
        tiles = task["layers"][index]["path"] == "tiles"
        _load(options, W.dtype == np.float64, info.hessian_dtype == np.float64)
        started = time.perf_counter()
        if tiles:
            q, blocks = self._on_tiles(name, W, options)
        elif info.storage == "diagonal":
            h = problem.diagonal(name)
            q = options.quantize(name, W, h)
            blocks = [(slice(None), h.astype(_work_dtype(W)))]
        else:
            H = self._read_hessian(info.hessian_key, name)
            q = options.quantize(name, W, self._factored(index, info.hessian_key, H))
            blocks = column_blocks(H, _work_dtype(W))
        seconds = time.perf_counter() - started
        other = compare(W, blocks, q, task["rows"])
        digests = list(inputs.result())
        after = os.stat(task["source"])
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise OSError(f"{task['source']} changed while the layer was read. Run it again")
        extra = {} if options.clip is None else {"clip": options.clip}
        # the seconds stay out of the file: the same input makes the same bytes
        image = layer_image(
            name, q, **extra, weight_energy=other.energy, nearest_loss=other.nearest_loss,
            compared_rows=other.rows,
        )  # fmt: skip
        return {
            **_facts(q),
            "weight_energy": other.energy,
            "nearest_loss": other.nearest_loss,
            "compared_rows": other.rows,
            "path": task["layers"][index]["path"],
            "seconds": seconds,
            "inputs": digests,
            "shard": write_shard(task["run"], task["layers"][index]["key"], image),
        }

    def _read_weight(self, name: str) -> tuple[np.ndarray, Future[tuple[str, str]]]:
        """The weight of a layer and the digests of its inputs, made once for all its widths."""
        if self.weight is None or self.weight[0] != name:
            self.weight = None
            W = self.problem.weight(name)
            self.weight = (name, W, self.hasher.submit(self.problem.digests, name))
        return self.weight[1:]

    def _read_hessian(self, key: str, name: str) -> np.ndarray:
        """The Hessian of a layer, read once for those that share it."""
        if self.hessian is None or self.hessian[0] != key:
            self.hessian = self.prepared = None  # before the next is read: one H in memory
            self.hessian = (key, self.problem.hessian(name))
        return self.hessian[1]

    def _factored(self, index: int, key: str, H: np.ndarray) -> np.ndarray | PreparedHessian:
        """The Hessian, factored where another layer of the task wants the same factor."""
        wanted = self.options[index].shared_factor
        sharing = [each.shared_factor for each in self.options].count(wanted)
        if wanted is None or sharing == 1:
            return H
        if self.prepared is None or self.prepared[0] != (key, wanted, self.options[index].backend):
            self.prepared = None
            order, damp = wanted
            backend = self.options[index].backend
            self.prepared = (
                (key, wanted, backend), prepare(H, order=order, damp=damp, backend=backend)
            )  # fmt: skip
        return self.prepared[1]

    def _on_tiles(self, name: str, W: np.ndarray, options: LayerOptions) -> tuple[Quantized, Any]:
        source = self.problem.hessian_source(name)
        memory = self.task["memory"] - W.nbytes
        wanted = (name, options.shared_factor)
        if self.tiles is None or self.tiles[0] != wanted:
            self.close()
            assert options.shared_factor is not None  # of every method that can use tiles
            order, damp = options.shared_factor
            scratch = os.path.join(self.task["run"], "shards")
            factored = OutOfCoreHessian(
                source, order, damp, select(), scratch=scratch, memory=memory
            )
            self.tiles = (wanted, factored)
        q = options.quantize(name, W, self.tiles[1])
        return q, source_blocks(source, _work_dtype(W), memory // 4)

    def close(self) -> None:
        """Give the tiles on the disk back."""
        if self.tiles is not None:
            self.tiles[1].close()
            self.tiles = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
        self.hasher.shutdown()


def _work_dtype(W: np.ndarray) -> np.dtype:
    return np.dtype(np.float64 if W.dtype == np.float64 else np.float32)


def _check_space(run: str, shape: tuple[int, int], bits: int) -> None:
    """Raise where the disk has no room for the codes: before the work, not after it."""
    needed = shape[0] * shape[1] * bits // 8
    free = shutil.disk_usage(run).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"the disk is full: the codes take {needed} bytes, {free} are free. Free some, then "
            "--retry-failed",
            run,
        )


@cache
def _warm(options: str, wide_weight: bool, wide_hessian: bool) -> None:
    """Load or compile the kernels by a small call, so that no layer's seconds have it in them."""
    W, H = (
        np.eye(4, dtype=np.float64 if wide else np.float32) for wide in (wide_weight, wide_hessian)
    )
    chosen = LayerOptions.from_json(json.loads(options))
    replace(chosen, rank=min(chosen.rank, 1)).quantize("", W, H)


def _load(options: LayerOptions, wide_weight: bool, wide_hessian: bool) -> None:
    _warm(json.dumps(options.to_json(), sort_keys=True), wide_weight, wide_hessian)


def _failure(error: Exception) -> Facts:
    """What is said of a layer that failed; where it is no error that was foreseen, all of it."""
    facts: Facts = {"error": str(error), "error_type": type(error).__name__, "warnings": []}
    if isinstance(error, MemoryError):
        facts["error"] = f"out of memory ({error}). Use fewer jobs or threads, or --max-memory"
    elif not isinstance(error, (QuipLinalgError, OSError)):
        facts["error"] = f"{type(error).__name__}: {error}"
        facts["traceback"] = traceback.format_exc()
    return facts


def _facts(q: Quantized) -> Facts:
    return {
        "shape": list(q.shape),
        "method": q.method,
        "bits": q.grid.bits,
        "bits_per_weight": q.bits_per_weight,
        "loss": q.loss,
        "near_tie_rows": q.near_tie_rows,
        "clipped": q.clipped,
        "dead_columns": int(q.dead.size),
        "damp": q.damp,
        "rotation": None if q.processing is None else q.processing.rotation,
        "candidates": q.candidates,
    }
