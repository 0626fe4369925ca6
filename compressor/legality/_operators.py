"""Which ONNX operators each version of TensorRT's parser imports."""

from __future__ import annotations

__all__ = ["IMPORTED_SINCE", "Version", "opset_of", "parsed"]

Version = tuple[int, int]
"""Major and minor."""

_BY_VERSION: dict[Version, str] = {
    (8, 0): """
        Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil Celu Clip
        Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout
        Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements Gemm GlobalAveragePool GlobalLpPool
        GlobalMaxPool Greater GreaterOrEqual HardSigmoid Identity If InstanceNormalization LRN LSTM LeakyRelu Less
        LessOrEqual Log LogSoftmax Loop LpNormalization LpPool MatMul Max MaxPool Mean Min Mul Neg NonMaxSuppression
        Not Or PRelu Pad Pow QuantizeLinear RNN RandomUniform RandomUniformLike Range ReduceL1 ReduceL2 ReduceLogSum
        ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize
        ReverseSequence Scan Selu Shape Sigmoid Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt
        Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Unsqueeze Upsample Where
    """,
    (8, 2): "Einsum GatherND IsNaN Round Scatter ScatterElements ScatterND Sign",
    (8, 4): "Shrink Xor",
    (8, 5): """
        GridSample HardSwish MeanVarianceNormalization Mod NonZero OneHot RandomNormal RandomNormalLike Reciprocal
        RoiAlign Trilu
    """,
    (8, 6): "GroupNormalization IsInf LayerNormalization",
    (9, 0): "CastLike",
    (9, 2): "Hardmax",
    (10, 0): "Gelu",
    (10, 4): "BlackmanWindow HammingWindow HannWindow",
    (10, 5): "STFT",
    (10, 15): "Attention Mish RMSNormalization RotaryEmbedding",
    (11, 0): "CausalConvWithState LinearAttention Swish TensorScatter",
}
"""Source: onnx-tensorrt, docs/operators.md of releases 8.4, 8.5, 9.2 and 10.15, and docs/Changelog.md for what came
between; the last line and the whole as of version 11: ``OnnxParser.supports_operator`` of TensorRT for RTX 1.7."""

IMPORTED_SINCE: dict[str, Version] = {name: since for since, names in _BY_VERSION.items() for name in names.split()}

_OPSETS: dict[Version, int] = {(8, 0): 13, (8, 5): 17, (9, 0): 19, (10, 0): 20, (10, 15): 24, (11, 3): 25}
"""The newest opset that a version reads: onnx-tensorrt, docs/operators.md; 11.x: NVIDIA's ONNX opset guide."""


def parsed(version: str) -> Version:
    """``10.3`` or ``10.3.0.30`` as (10, 3)."""
    major, minor, *_ = (*version.split("."), "0")
    return int(major), int(minor)


def opset_of(version: Version) -> int:
    """The newest opset that TensorRT ``version`` reads."""
    return max((opset for since, opset in _OPSETS.items() if since <= version), default=11)
