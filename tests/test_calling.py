"""Networks called by name, and the tensors that they return."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from compressor.calling import call_network, named_tensors
from compressor.core import UsageError

ONE, TWO = torch.ones(1), torch.zeros(2)
Boxes = namedtuple("Boxes", "boxes scores")


@dataclass
class Found:
    logits: Tensor
    loss: Tensor | None = None


class Bag:
    def __init__(self, **held: Any) -> None:
        self.__dict__.update(held)


@pytest.mark.parametrize(
    ("made", "names"),
    [
        (ONE, ["output"]),
        ((ONE,), ["output"]),
        ([ONE, TWO], ["output_0", "output_1"]),
        ({"a": ONE, "b": {"c": TWO}}, ["a", "b_c"]),
        (OrderedDict(out=ONE, aux=TWO), ["out", "aux"]),
        (Boxes(ONE, TWO), ["boxes", "scores"]),
        (Found(ONE), ["logits"]),
        ((ONE, (TWO, None, 3, "text")), ["output_0", "output_1_0"]),
        (Bag(last=ONE, hidden=(TWO, ONE)), ["last", "hidden_0", "hidden_1"]),
        ([{"boxes": ONE}, {"boxes": TWO}], ["0_boxes", "1_boxes"]),
    ],
)
def test_tensors_are_named_by_where_they_stand(made: object, names: list[str]) -> None:
    assert list(named_tensors(made)) == names


@pytest.mark.parametrize("made", [None, 3.0, "text", (), [None, 1], {}])
def test_what_holds_no_tensor_is_refused(made: object) -> None:
    with pytest.raises(UsageError, match="no tensor in it"):
        named_tensors(made)


class Keywords(nn.Module):
    """Takes more than what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 4)  # the exporter's own name of what it makes is "embedding"
        self.linear = nn.Linear(4, 3)

    def forward(
        self, ids: Tensor, mask: Tensor | None = None, kinds: Tensor | None = None, *, scale: float = 1.0
    ) -> Found:
        assert mask is None
        x = self.table(ids)
        return Found(self.linear(x if kinds is None else x + kinds[..., None]) * scale)


def test_inputs_go_to_the_parameters_of_their_names() -> None:
    ids, kinds = torch.zeros(1, 5, dtype=torch.int64), torch.rand(1, 5)
    network = Keywords()
    assert torch.equal(call_network(network, ["ids", "kinds"], [ids, kinds]).logits, network(ids, kinds=kinds).logits)
    assert torch.equal(call_network(network, ["input"], [ids]).logits, network(ids).logits)


def test_such_a_network_is_exported_and_computes_the_same() -> None:
    """Its weights keep their names; the file takes the inputs that were named."""
    from compressor.core import Signature, TensorSpec
    from compressor.lowering.export import export

    signature = Signature(
        (TensorSpec("ids", "int64", ("batch", 5)), TensorSpec("kinds", "float32", ("batch", 5))),
        (TensorSpec("embedding", "float32", ("batch", 5, 3)),),
    )
    torch.manual_seed(0)
    network = Keywords().eval()
    graph = export(network, signature, {}, 21)
    assert {"table.weight", "linear.bias"} <= set(graph.graph.initializers)
    feeds = {"ids": np.arange(15).reshape(3, 5) % 7, "kinds": np.ones((3, 5), np.float32)}
    runtime = ort.InferenceSession(ir.to_proto(graph).SerializeToString())
    (got,) = runtime.run(["embedding"], feeds)
    expected = network(torch.from_numpy(feeds["ids"]), kinds=torch.from_numpy(feeds["kinds"])).logits
    np.testing.assert_allclose(got, expected.detach().numpy(), atol=1e-6)
