"""Whether a runtime will take a graph, told before it is asked: each fault with its node and its mend."""

from compressor.legality._accelerator import Coverage, accelerator_coverage
from compressor.legality._fault import Fault
from compressor.legality._placement import placement_faults
from compressor.legality._tensorrt import tensorrt_faults
from compressor.legality._tensorrt_judge import judge_for_tensorrt

__all__ = ["Coverage", "Fault", "accelerator_coverage", "judge_for_tensorrt", "placement_faults", "tensorrt_faults"]
