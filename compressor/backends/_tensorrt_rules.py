"""Where TensorRT wants its quantisers: what all its versions have in common."""

from __future__ import annotations

from compressor.core import QdqRules

__all__ = ["tensorrt_rules"]


def tensorrt_rules(*, integer_weights: bool, half: bool) -> QdqRules:
    """Return the rules of explicit quantisation (NVIDIA's developer guide, "Working with quantized types").

    INT8 is symmetric. All inputs of convolutions and matrix products are quantised and no output is: TensorRT fuses
    what follows and moves the pairs itself. Of a residual sum only the skip branch is quantised; the other branch
    stays inside the convolution's kernel. The inputs of a Concat share a scale, so that it can run on integers.
    Activation functions and shapes get no pairs. Convolutions of under 16 channels that are no multiple of 8, and
    products of single rows, are slower in INT8 than in FP16. Biases stay float: an int32 bias with a DequantizeLinear
    is a parse error.

    The weights of a transposed convolution have one scale: TensorRT's kernels have none for its output channels, and
    with those compute wrong results (NVIDIA/TensorRT, issues 1694 and 2380). Grouped ones with under 4 channels a
    group, such as depthwise ones, stay float: TensorRT 8 refuses them in INT8 (issue 1934).

    ``integer_weights``: TensorRT 10 and later take weights as integers, older ones as floats with a QuantizeLinear.
    ``half``: all other operators are FP16 in the graph, as strongly typed networks want it.
    """
    return QdqRules(
        quantizable_ops=frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"}),
        quantize_outputs=frozenset(),
        passthrough_ops=frozenset({"Slice", "Pad", "MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Split"}),
        passthrough_in_integers=False,
        activation_dtype="int8",
        symmetric_activations=True,
        weight_bits=8,
        per_channel=frozenset({"Conv", "Gemm"}),
        integer_bias=frozenset(),
        fold_activations=False,
        keep_float_outputs=True,
        skip_branch=frozenset({"Add"}),
        shared_scale_ops=frozenset({"Concat"}),
        min_channels=16,
        min_transposed_group_channels=4,
        quantize_gemv=False,
        integer_weights=integer_weights,
        folds_packed_weights=False,
        float_dtype="float16" if half else "float32",
    )
