"""A torch module as a teacher: its signature is found by running it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor import catalog
from compressor.core import GivenInput, InputSpec, Json, Signature, TensorSpec, TorchSource, UsageError
from compressor.frontend import LoadedNetwork, load_checkpoint
from compressor.teacher._published import published_normalization, published_size

if TYPE_CHECKING:
    from torch import nn

    from compressor.core.signature import Feeds, Outputs
    from compressor.data import AnySource

__all__ = ["TorchNetwork", "load_torch"]

_SAMPLES = (1, 2)


@dataclass(frozen=True, eq=False)
class TorchNetwork:
    """A torch network in memory. Satisfies `compressor.teacher._network.Network`."""

    loaded: LoadedNetwork
    module: nn.Module
    signature: Signature
    sizes: Mapping[str, int]
    params: int
    macs: int
    ranges: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def family(self) -> str:
        return self.loaded.family

    @property
    def settings(self) -> Mapping[str, Json]:
        return self.loaded.settings

    @property
    def task(self) -> str | None:
        known = _family(self.loaded)
        return None if known is None else str(known.task)

    @property
    def default_normalization(self) -> str | None:
        known = _family(self.loaded)
        if known is None:
            return published_normalization(self.module)
        return known.normalization if self.signature.input.shape[1] == 3 else None

    @property
    def divisor(self) -> int:
        return int(getattr(self.module, "divisor", 1))

    @property
    def notes(self) -> tuple[str, ...]:
        return self.loaded.notes

    def __call__(self, feeds: Feeds) -> Outputs:
        """The outputs in floats, by name."""
        from compressor.frontend import TorchSession

        return TorchSession(self.module, self.signature)(feeds)

    def write(self, folder: Path) -> tuple[TorchSource | None, Path | None, str]:
        """Keep its weights in ``folder`` as safetensors; the first process of a run writes."""
        from compressor.frontend import save_weights
        from compressor.store import file_sha256
        from compressor.train import workers

        weights = folder / "model.safetensors"
        sha256 = save_weights(self.loaded.state, weights) if workers.is_main_process() else file_sha256(weights)
        return TorchSource(self.loaded.family, self.loaded.settings, weights), None, sha256


def load_torch(
    path: Path,
    arch: str | None,
    given: tuple[GivenInput, ...],
    source: AnySource | None,
    *,
    trust: bool,
) -> TorchNetwork:
    """Read a checkpoint, settle its inputs (flag, file, family, data) and find its outputs by running it.

    Raises UsageError or UnsafeInput as `load_checkpoint` does, UsageError where it does not take such inputs.
    """
    loaded = load_checkpoint(path, arch=arch, trust=trust)
    from compressor.calling import call_network
    from compressor.models.common.cost import cost_of_feeds

    module = loaded.build()
    inputs = _inputs(loaded, module, given, source)
    signature = _signature(module, inputs)
    shapes = tuple(spec.sized({"batch": 1}) for spec in signature.inputs)
    names = [spec.name for spec in signature.inputs]
    counted = cost_of_feeds(
        module, shapes, [spec.dtype for spec in signature.inputs], partial(call_network, names=names)
    )
    return TorchNetwork(
        loaded, module, signature, {} if signature.batch is None else {"batch": 1}, counted.params, counted.macs,
        _ranges(inputs, given),
    )  # fmt: skip


def _family(loaded: LoadedNetwork) -> Any:
    return None if ":" in loaded.family else catalog.find("models", loaded.family)


def _inputs(
    loaded: LoadedNetwork,
    module: nn.Module,
    given: tuple[GivenInput, ...],
    source: AnySource | None,
) -> tuple[TensorSpec, ...]:
    """The inputs of one sample: as given, else one image of the file's, the family's or the data's size."""
    from compressor.data import FeedSource

    if len(given) == 1 and given[0].image is not None:
        name = given[0].name or "input"
        return (TensorSpec(name, "float32", ("batch", *_image(loaded, module, given[0].image, source).shape)),)
    if isinstance(source, FeedSource) and not given:
        given = _ordered(module, source.given_inputs())
    if given:
        if loaded.input is not None or _family(loaded) is not None:
            raise UsageError("this model takes one image", hint="--input CHANNELSxHEIGHTxWIDTH, such as 3x224x224")
        names = _names(module, given)
        return tuple(
            TensorSpec(name, each.dtype or "float32", ("batch", *each.shape))
            for name, each in zip(names, given, strict=True)
        )
    return (TensorSpec("input", "float32", ("batch", *_image(loaded, module, None, source).shape)),)


def _ordered(module: nn.Module, given: tuple[GivenInput, ...]) -> tuple[GivenInput, ...]:
    """Inputs in the order of the forward's parameters, where these have their names."""
    from compressor.calling import forward_parameters

    order = forward_parameters(module)
    known = all(each.name in order for each in given)
    return tuple(sorted(given, key=lambda each: order.index(str(each.name)))) if known else given


def _names(module: nn.Module, given: tuple[GivenInput, ...]) -> list[str]:
    """The names of inputs, checked to be those of the forward's parameters, in their order."""
    if given[0].name is None:
        return ["input"]
    from compressor.calling import forward_parameters

    parameters = forward_parameters(module)
    names = [str(each.name) for each in given]
    if len(names) == 1 and names[0] not in parameters:
        return names  # the first parameter, under a name of the user's own
    if parameters and names != [name for name in parameters if name in names]:
        raise UsageError(
            f"--input names {', '.join(names)}; the model's forward takes {', '.join(parameters)}",
            hint="name its parameters, in their order",
        )
    return names


def _image(loaded: LoadedNetwork, module: nn.Module, given: InputSpec | None, source: AnySource | None) -> InputSpec:
    """The flag, the file's or the family's own, or the data's; a family trained at its data's size follows that."""
    from compressor.data import default_size

    if loaded.input is not None:
        if given not in (None, loaded.input):
            raise UsageError(f"--input is {given}, the model takes {loaded.input} alone", hint="leave out --input")
        return loaded.input
    if given is not None:
        if loaded.channels is not None and given.channels != loaded.channels:
            raise UsageError(
                f"--input {given} has {given.channels} channels, the model takes {loaded.channels}",
                hint="correct --input",
            )
        return given
    family, size = _family(loaded), default_size(source)
    side = published_size(module) if family is None else family.input_size
    if size is not None and (family is None or (family.follows_data and max(size) <= 64)):
        height, width = size
    elif isinstance(side, tuple):
        height, width = side
    elif side is not None:
        height = width = side
    else:
        raise UsageError("the model's input size is not known", hint="--input CHANNELSxHEIGHTxWIDTH, such as 3x224x224")
    stored = source.size.channels if source is not None and source.size is not None else 3
    return InputSpec(loaded.channels or stored, height, width)


def _signature(module: nn.Module, inputs: tuple[TensorSpec, ...]) -> Signature:
    """The outputs, and whether the batch is free: found by running one sample, and two."""
    one, two = (_made(module, inputs, samples) for samples in _SAMPLES)
    if isinstance(one, Exception):
        if isinstance(two, Exception) or len(inputs) == 0:
            reason = (str(one).strip().splitlines() or [type(one).__name__])[0]
            told = ", ".join("x".join(map(str, spec.shape[1:])) for spec in inputs)
            raise UsageError(
                f"the model does not take an input of {told}: {reason}",
                hint="correct --input; where its forward takes more than tensors, wrap it in a module that gives it "
                "those by itself, and name that with --arch",
            ) from one
        one = two  # batch statistics want two
    free = one is two or (not isinstance(two, Exception) and _grows(one, two))
    taken = {spec.name for spec in inputs}
    outputs = tuple(
        TensorSpec(f"{name}_out" if name in taken else name, dtype, ("batch", *shape[1:]) if free else shape)
        for name, (shape, dtype) in one.items()
    )
    if not free:
        inputs = tuple(replace(spec, shape=(1, *spec.shape[1:])) for spec in inputs)
    return Signature(inputs, outputs)


_Made = dict[str, tuple[tuple[int, ...], str]]
"""The shape and dtype of each output."""


def _grows(one: _Made, two: _Made) -> bool:
    """Whether each output has one row of one sample, and two of the same shape of two."""
    if list(one) != list(two):
        return False
    pairs = zip(one.values(), two.values(), strict=True)
    return all(a[:1] == (1,) and b[:1] == (2,) and a[1:] == b[1:] for (a, _), (b, _) in pairs)


def _made(module: nn.Module, inputs: tuple[TensorSpec, ...], samples: int) -> _Made | Exception:
    """The outputs for so many samples of zeros, or what the module raised."""
    import torch

    from compressor.calling import call_network, named_tensors

    feeds = [torch.zeros(spec.sized({"batch": samples}), dtype=getattr(torch, spec.dtype)) for spec in inputs]
    try:
        with torch.inference_mode():
            made = call_network(module, [spec.name for spec in inputs], feeds)
    except Exception as error:  # noqa: BLE001 - a user's own network may raise anything
        return error
    return {name: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in named_tensors(made).items()}


def _ranges(inputs: tuple[TensorSpec, ...], given: tuple[GivenInput, ...]) -> dict[str, tuple[int, int]]:
    """Nothing: the sizes of a torch module's inputs are fixed but for the batch. Raises UsageError for a range."""
    if any(least < most for each in given for least, most in each.bounds):
        raise UsageError(
            "--input has a range, and a PyTorch model is exported for one size",
            hint="give one size, or export the model to ONNX with that axis free",
        )
    return {}
