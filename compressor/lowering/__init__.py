"""Lowering: from a network to the graph that a runtime loads.

`lower.py` is the sequence: export (or the user's ONNX) -> clean -> Q/DQ (`placement`) -> pack -> FP16 -> save.
"""
