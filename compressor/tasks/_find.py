"""Choosing the task of a network."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from compressor import catalog
from compressor.core import Task, UsageError
from compressor.tasks._evidence import Evidence

if TYPE_CHECKING:
    from compressor.data import AnySource

__all__ = ["agreement_task", "find_task", "profile_for"]

_LAST = "generic"
"""Fits every network, so it is asked last."""


def find_task(named: str | None, evidence: Evidence) -> Task:
    """The task that was named, else the first that the network, its family and its data show.

    Raises UsageError where the named one does not fit, or the data is for no network like this.
    """
    if named is not None:
        chosen: Task | None = catalog.find("tasks", named).fits(replace(evidence, named=True))
        if chosen is None:
            raise UsageError(
                f"--task {named}: the network maps {_shapes(evidence)}, which is not what that task takes",
                hint="leave --task out, or name another",
            )
        return chosen
    for kind in sorted(catalog.names("tasks"), key=lambda name: name == _LAST):
        if (task := catalog.find("tasks", kind).fits(evidence)) is not None:
            found: Task = task
            return found
    raise UsageError(
        f"the network maps {_shapes(evidence)}, and {_held(evidence)}",
        hint="give data of the kind that the network was made for, or --task generic and unlabelled samples",
    )


def agreement_task() -> Task:
    """The task that judges any network by how far its outputs are from the teacher's."""
    task: Task = catalog.find("tasks", _LAST)()
    return task


def profile_for(source: AnySource) -> str:
    """The default profile of the task that a data source is for."""
    from compressor.data import MaskSource
    from compressor.tasks.classification import Classification
    from compressor.tasks.generic import Generic
    from compressor.tasks.segmentation import Segmentation
    from compressor.tasks.super_resolution import SuperResolution

    if not source.images:
        return Generic.profile
    if isinstance(source, MaskSource):
        return Segmentation.profile
    return SuperResolution.profile if source.targets == "images" else Classification.profile


def _shapes(evidence: Evidence) -> str:
    inputs = ", ".join(map(str, evidence.signature.inputs))
    return f"{inputs} to {', '.join(str(list(shape)) for shape in evidence.outputs)}"


def _held(evidence: Evidence) -> str:
    if evidence.source is None:
        return "nothing says what for"
    return f"{evidence.source.evaluate.name} has {evidence.targets or 'no targets'} for it"
