"""Bundles that were tampered with, and ONNX graphs that reach out, lie, explode or run for ever."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from compressor.bundle import EngineEntry, ImageInput, Manifest, write_bundle
from compressor.core import Signature, TensorSpec
from hostile import Case, canary
from hostile.data import OVERCLAIM, header, npy, pickled

MANIFEST = Manifest(
    task={"kind": "generic"},
    target="somewhere",
    precision={"asked": ["fp32"], "realised": "fp32", "from": "graph"},
    opset=21,
    signature=Signature(
        (TensorSpec("input", "float32", ("batch", 1, 2, 2)),), (TensorSpec("output", "float32", ("batch", 4)),)
    ),
    sizes={"batch": 1},
    engine=EngineEntry("ready", "onnxruntime", "model.onnx"),
    image=ImageInput("input", (0.0, 1.0), (0.0,), (1.0,)),
)
HUGE, MANY = [1024] * 4, [1 << 38, 4]


# -- graphs -------------------------------------------------------------------------------------


def value(name: str, shape: Sequence[int | str], type: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, type, shape)


def whole(name: str, number: Any) -> TensorProto:
    """A tensor of whole numbers, or of truth values."""
    kind = np.bool_ if isinstance(number, bool) else np.int64
    return numpy_helper.from_array(np.array(number, kind), name)


def model(*nodes: NodeProto, weights: Sequence[TensorProto] = (), **more: Any) -> ModelProto:
    """A network that hands on its 2 x 2 pixels, and adds what ``nodes`` make of them: their ``extra``."""
    first = helper.make_node("Flatten", ["input"], ["flat"])
    last = helper.make_node("Add" if nodes else "Identity", ["flat", "extra"] if nodes else ["flat"], ["output"])
    graph = helper.make_graph(
        [first, *nodes, last], "graph", [value("input", ["batch", 1, 2, 2])], [value("output", ["batch", 4])], weights
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10, **more)


def node(kind: str, *inputs: str, **attributes: Any) -> NodeProto:
    return helper.make_node(kind, inputs, ["extra"], **attributes)


def elsewhere(location: str) -> ModelProto:
    """A weight that is said to lie in another file."""
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=location)
    return model(node("Identity", "w"), weights=[weight])


def claiming(*dims: int) -> ModelProto:
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, raw_data=b"1234")
    return model(node("Identity", "w"), weights=[weight])


def doubled(times: int) -> ModelProto:
    """A vector that is joined to itself again and again."""
    names = ["flat", *(f"twice{i}" for i in range(times))]
    joins = [helper.make_node("Concat", [a, a], [b], axis=1) for a, b in pairwise(names)]
    return model(*joins, node("ReduceSum", names[-1]))


def product() -> ModelProto:
    """A size that is only known once two constants are multiplied."""
    size = helper.make_node("Mul", ["a", "a"], ["size"])
    return model(size, node("ConstantOfShape", "size"), weights=[whole("a", [1 << 20])])


def asked() -> ModelProto:
    """A size that only the input's values tell."""
    largest = helper.make_node("ReduceMax", ["flat"], ["largest"])
    number = helper.make_node("Cast", ["largest"], ["number"], to=TensorProto.INT64)
    return model(
        largest,
        number,
        helper.make_node("Reshape", ["number", "one"], ["size"]),
        node("ConstantOfShape", "size"),
        weights=[whole("one", [1])],
    )


def branching(depth: int) -> ModelProto:
    def inside(left: int) -> GraphProto:
        each = helper.make_node("Identity", ["flat"], ["inner"])
        if left:
            each = helper.make_node("If", ["yes"], ["inner"], then_branch=inside(left - 1), else_branch=inside(0))
        return helper.make_graph([each], "inner", [], [value("inner", [1, 4])])

    return model(node("If", "yes", then_branch=inside(depth), else_branch=inside(0)), weights=[whole("yes", True)])


def endless() -> ModelProto:
    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["still"]), helper.make_node("Identity", ["old"], ["new"])],
        "body",
        [value("i", [], TensorProto.INT64), value("on", [], TensorProto.BOOL), value("old", ["batch", 4])],
        [value("still", [], TensorProto.BOOL), value("new", ["batch", 4])],
    )
    return model(node("Loop", "", "yes", "flat", body=body), weights=[whole("yes", True)])


def calling() -> ModelProto:
    same = helper.make_node("Identity", ["a"], ["b"])
    own = helper.make_function("own", "Own", ["a"], ["b"], [same], [helper.make_opsetid("", 21)])
    return model(node("Own", "flat", domain="own"), functions=[own])


def polyglot() -> bytes:
    """ONNX to protobuf; but ONNX Runtime goes by bytes 4 to 8, which say that it is its own format."""
    return b"\x08\x0a\x12\x04ORTM" + model().SerializeToString()


def empty_nodes(count: int) -> bytes:
    """Two bytes each in the file, and a hundred and more in memory."""
    size, graph = 2 * count, b""
    while size:
        graph, size = graph + bytes([size & 127 | (128 if size > 127 else 0)]), size >> 7
    return model().SerializeToString() + b"\x3a" + graph + b"\x0a\x00" * count


# -- bundles ------------------------------------------------------------------------------------


def good(folder: Path) -> Path:
    """A bundle that verifies."""
    (folder / "source.onnx").write_bytes(model().SerializeToString())
    batch = np.random.default_rng(0).standard_normal((3, 1, 2, 2)).astype(np.float32)
    write_bundle(
        folder / "bundle", folder / "source.onnx", MANIFEST, {"input": batch}, {"output": batch.reshape(3, 4)},
        {"output": 1e-3},
    )  # fmt: skip
    return folder / "bundle"


def tampered(change: Callable[[Path], Any]) -> Callable[[Path], list[str]]:
    """A good bundle, and what ``change`` does to it."""

    def make(folder: Path) -> list[str]:
        bundle = good(folder)
        change(bundle)
        return ["verify", str(bundle)]

    return make


def replace(bundle: Path, name: str, content: bytes) -> None:
    """Put another file into the bundle, and its hash into the manifest."""
    (bundle / name).write_bytes(content)
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (bundle / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def with_model(made: ModelProto | bytes | Callable[[], bytes]) -> Callable[[Path], list[str]]:
    content = made.SerializeToString() if isinstance(made, ModelProto) else made
    return tampered(lambda bundle: replace(bundle, "model.onnx", content() if callable(content) else content))


def with_golden(
    members: Callable[[Path], dict[str, bytes]], kind: int = zipfile.ZIP_STORED
) -> Callable[[Path], list[str]]:
    def change(bundle: Path) -> None:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", kind, compresslevel=1) as archive:
            for name, data in members(bundle.parent).items():
                archive.writestr(f"{name}:{name}.npy", data)  # the input is called input, the output output
        replace(bundle, "golden.npz", out.getvalue())

    return tampered(change)


def asking(folder: Path) -> list[str]:
    arguments = with_model(asked())(folder)
    out = io.BytesIO()
    arrays = {"input:input": np.full((1, 1, 2, 2), 2.0**40, np.float32), "output:output": np.zeros((1, 4), np.float32)}
    np.savez(out, **arrays)
    replace(folder / "bundle", "golden.npz", out.getvalue())
    return arguments


def with_manifest(text: bytes) -> Callable[[Path], list[str]]:
    return tampered(lambda bundle: (bundle / "manifest.json").write_bytes(text))


def with_entry(name: str) -> Callable[[Path], list[str]]:
    """A bundle whose manifest names a file that is elsewhere."""

    def change(bundle: Path) -> None:
        (bundle.parent / "secret").write_bytes(b"x")
        manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
        manifest["files"][name] = {"sha256": hashlib.sha256(b"x").hexdigest(), "bytes": 1}
        (bundle / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")

    return tampered(change)


def pipe(name: str) -> Callable[[Path], list[str]]:
    def change(bundle: Path) -> None:
        (bundle / name).unlink()
        os.mkfifo(bundle / name)

    return tampered(change)


def link(bundle: Path) -> None:
    (bundle / "model.onnx").rename(bundle.parent / "moved.onnx")
    (bundle / "model.onnx").symlink_to("../moved.onnx")


def trap(bundle: Path) -> None:
    """What Python would import in place of NumPy."""
    (bundle / "numpy.py").write_text(f"import os; os.mkdir({str(canary(bundle.parent))!r})\n")


TEN = npy(np.zeros((3, 4), np.float32))
ZEROS = header("{'descr': '<f4', 'fortran_order': False, 'shape': (20000000, 4), }\n") + bytes(320_000_000)

CASES = [
    # graphs that reach out of their file
    Case("weights above the bundle", with_model(elsewhere("../../secret")), 7, "another file"),
    Case("weights at an absolute path", with_model(elsewhere("/etc/hostname")), 7, "another file"),
    Case("weights in a file of the bundle", with_model(elsewhere("golden.npz")), 7, "another file"),
    # graphs that claim or make more than they hold
    Case("weights that overclaim", with_model(claiming(10**6, 10**6)), 7, "claims 4,000,000,000,000 bytes"),
    Case("weights of a negative size", with_model(claiming(-1, -1)), 6, "cannot be run"),
    Case("4 TiB of one value", with_model(model(node("ConstantOfShape", "s"), weights=[whole("s", HUGE)])), 7, "takes"),
    Case("4 TiB by Expand", with_model(model(node("Expand", "flat", "s"), weights=[whole("s", MANY)])), 7, "takes"),
    Case("4 TiB by Tile", with_model(model(node("Tile", "flat", "s"), weights=[whole("s", MANY)])), 7, "takes"),
    Case("4 TiB of noise", with_model(model(node("RandomNormal", shape=HUGE))), 7, "takes"),
    Case("4 TiB by a product", with_model(product()), 7, "takes"),
    Case("4 TiB for its input", asking, 7, "memory"),
    Case("40 doublings", with_model(doubled(40)), 7, "bundle"),
    Case("ten million nodes", with_model(lambda: empty_nodes(10_000_000)), 7, "memory"),
    # graphs that bring code, or never end
    Case("an operator of its own", with_model(model(node("Own", "flat", domain="own"))), 7, "own::Own"),
    Case("a compiled blob", with_model(model(node("EPContext", "flat", domain="com.microsoft"))), 7, "EPContext"),
    Case("a function of its own", with_model(calling()), 7, "functions"),
    Case("an endless loop", with_model(endless()), 7, "Loop"),
    Case("graphs in graphs", with_model(branching(12)), 7, "nests"),
    Case("a graph of another format", with_model(polyglot()), 7, "ONNX Runtime's own format"),
    # graphs that are broken
    Case(
        "two weights of one name",
        with_model(model(node("Identity", "w"), weights=[whole("w", 1), whole("w", 2)])),
        6,
        "two values named 'w'",
    ),
    Case("rubbish for a model", with_model(b"PK rubbish"), 6, "cannot be run"),
    Case("half a model", with_model(model().SerializeToString()[:-9]), 6, "cannot be run"),
    # golden outputs
    Case("golden that overclaims", with_golden(lambda _: {"input": header(OVERCLAIM), "output": TEN}), 7, "claims"),
    Case("golden bomb", with_golden(lambda _: {"input": ZEROS, "output": TEN}, zipfile.ZIP_DEFLATED), 7, "claims"),
    Case("pickled golden", with_golden(lambda here: {"input": pickled(here), "output": TEN}), 6, "pickle"),
    Case("golden of other sizes", with_golden(lambda _: {"input": TEN, "output": TEN}), 6, "cannot be run"),
    # what lies in the folder
    Case("a runner of their own", tampered(lambda b: (b / "run.py").write_text("import os")), 6, "run.py was changed"),
    Case("a module beside the runner", tampered(trap), 6, "numpy.py is not the bundle's"),
    Case("a link out of the bundle", tampered(link), 7, "link out of the bundle"),
    Case("a pipe for a model", pipe("model.onnx"), 6, "model.onnx is missing"),
    Case("a pipe for a manifest", pipe("manifest.json"), 2, "no manifest.json"),
    # manifests
    Case("a manifest that climbs", with_entry("../secret"), 6, "../secret is missing"),
    Case("a deep manifest", with_manifest(b"[" * 1_000_000), 6, "manifest.json cannot be read"),
    Case("a long manifest", with_manifest(b" " * (17 << 20) + b"{}"), 6, "manifest.json cannot be read"),
    Case("a manifest of other things", with_manifest(b'{"files": 3, "golden": []}'), 6, "manifest.json cannot be read"),
]
