"""What every task promises."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import numpy as np
import pytest

from compressor import catalog
from compressor.core import Signature, Task, TensorSpec
from compressor.losses import objective
from compressor.tasks import Evidence

TASKS = pytest.mark.parametrize("name", catalog.names("tasks"))


@TASKS
def test_it_has_what_the_protocol_asks_for(name: str) -> None:
    task = catalog.find("tasks", name)
    assert dataclasses.is_dataclass(task)
    assert task.__dataclass_params__.frozen
    assert task.kind == name
    assert task.__doc__
    for member in (each for each in vars(Task) if not each.startswith("_")):
        assert hasattr(task, member), member
        if inspect.isfunction(getattr(Task, member)):
            wanted, own = (list(inspect.signature(getattr(each, member)).parameters) for each in (Task, task))
            assert own == wanted, member


@TASKS
def test_its_profile_and_losses_are_there(name: str) -> None:
    task = catalog.find("tasks", name)
    assert task.profile in catalog.toml_names("profiles")
    assert objective([dict(each) for each in task.losses])


@TASKS
def test_a_network_of_words_is_for_no_task_of_images(name: str) -> None:
    words = TensorSpec("tokens", "int64", ("batch", 16))
    signature = Signature((words,), (TensorSpec("output", "float32", ("batch", 16, 30)),))

    def run(feeds: Any) -> dict[str, Any]:
        return {"output": np.zeros((1, 16, 30), np.float32)}

    found = catalog.find("tasks", name).fits(Evidence(signature, None, ((1, 16, 30),), run, None, None))
    assert found is None or found.kind == "generic"
