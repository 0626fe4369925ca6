"""``compress inspect``: tell what a model file is."""

from __future__ import annotations

from compressor.cli._options import Arch, AsJson, InputSize, ModelFile, Trust, parse_input
from compressor.cli._printing import print_document

__all__ = ["inspect"]


def inspect(
    model: ModelFile, arch: Arch = None, input: InputSize = None, trust: Trust = False, as_json: AsJson = False
) -> None:
    """Tell what a model file is: family, parameters, MACs, input, and what a run would do."""
    from compressor.inspection import inspect_model

    print_document(inspect_model(model, arch, parse_input(input), trust=trust), as_json)
