"""Where TensorRT wants its quantisers: what all its versions have in common."""

from __future__ import annotations

from compressor.core import QdqRules

__all__ = ["tensorrt_rules"]


def tensorrt_rules(*, integer_weights: bool, half: bool) -> QdqRules:
    """Explicit quantisation as NVIDIA's developer guide has it ("Working with quantized types").

    Symmetric INT8. All inputs of convolutions and matrix products are quantised and no output is, as TensorRT
    fuses what follows and moves the pairs itself. Of a residual sum only the skip branch is: the other stays
    inside the convolution's kernel. What a Concat joins shares a scale, so that it can run on the integers.
    Nothing is placed on activations and shapes. Convolutions of under 16 channels, unless a multiple of 8, and
    products of single rows are slower in INT8 than in FP16. Biases stay float: an int32 bias with a
    DequantizeLinear is a parse error.

    ``integer_weights``: TensorRT 10 and later take weights as integers, before they are floats with a
    QuantizeLinear. ``half``: the graph says FP16 for everything else, as strongly typed networks want it.
    """
    return QdqRules(
        quantizable_ops=frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"}),
        quantize_outputs=frozenset(),
        passthrough_ops=frozenset({"Slice", "Pad", "MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Split"}),
        passthrough_in_integers=False,
        activation_dtype="int8",
        symmetric_activations=True,
        weight_bits=8,
        per_channel=frozenset({"Conv", "ConvTranspose", "Gemm"}),
        integer_bias=frozenset(),
        fold_activations=False,
        keep_float_outputs=True,
        skip_branch=frozenset({"Add"}),
        shared_scale_ops=frozenset({"Concat"}),
        min_channels=16,
        quantize_gemv=False,
        integer_weights=integer_weights,
        folds_packed_weights=False,
        float_dtype="float16" if half else "float32",
    )
