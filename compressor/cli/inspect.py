"""``compress inspect``: tell what a model file is."""

from __future__ import annotations

from compressor.cli._options import Arch, AsJson, InputSizes, ModelFile, Trust, parse_inputs
from compressor.cli._printing import print_document

__all__ = ["inspect"]


def inspect(
    model: ModelFile, arch: Arch = None, input: InputSizes = None, trust: Trust = False, as_json: AsJson = False
) -> None:
    """Tell what a model file is: family, parameters, MACs, input, and what a run would do."""
    from compressor.inspection import inspect_model

    print_document(inspect_model(model, arch, parse_inputs(input), trust=trust), as_json)
