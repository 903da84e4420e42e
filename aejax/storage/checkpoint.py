"""Checkpoints of a run: the only file that imports orbax."""

import contextlib
import logging
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from aejax.errors import InputError

logging.getLogger("absl").setLevel(logging.ERROR)  # orbax reports every save


class Checkpoints:
    """The last `max_to_keep` states of a folder, each with a small JSON of metadata.

    Saves are asynchronous and atomic: a killed process leaves only complete checkpoints.
    """

    def __init__(self, folder: Path, max_to_keep: int = 1, *, read_only: bool = False):
        alone = jax.process_index() if read_only else None  # any process may read by itself
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None if read_only else max_to_keep,
            create=not read_only,
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
            # Saves of several processes to two folders at a time need separate barriers.
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=0 if alone is None else alone,
                active_processes=None if alone is None else {alone},
                barrier_sync_key_prefix=str(folder).replace("/", "_"),
            ),
        )
        self._folder = folder
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def latest(self) -> int | None:
        """The last step saved, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, meta: dict[str, Any]) -> None:
        """Start saving; a step that is saved already is unchanged."""
        if step in self._manager.all_steps():
            return
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        self._manager.save(step, args=args)

    def restore(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        """State and JSON of a step; `like` gives structure, shapes and shardings. Raises InputError."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        with self._readable(step):
            items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), meta=ocp.args.JsonRestore())
            restored = self._manager.restore(step, args=items)
        return restored["state"], restored["meta"]

    def restore_part(self, step: int, names: Container[str], sharding: jax.sharding.Sharding) -> dict[str, Any]:
        """Those parts of a step's state, with every leaf that is stored. Raises InputError."""
        with self._readable(step):
            stored = ocp.StandardCheckpointHandler().metadata(self._folder.absolute() / str(step) / "state").tree
            parts = {name: value for name, value in stored.items() if name in names and value is not None}
            abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), parts)
            given = ocp.checkpoint_utils.construct_restore_args(abstract)
            state = ocp.args.PyTreeRestore(abstract, restore_args=given, partial_restore=True)
            return self._manager.restore(step, args=ocp.args.Composite(state=state))["state"]

    @contextlib.contextmanager
    def _readable(self, step: int) -> Iterator[None]:
        try:
            yield
        except (ValueError, TypeError, OSError, KeyError) as error:
            raise InputError(f"{self._folder}/{step}: cannot be restored: {error}") from error

    def wait(self) -> None:
        """Return once every save has reached the disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.wait_until_finished()
        self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
