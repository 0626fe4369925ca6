"""Pieces that the losses on class scores share."""

from __future__ import annotations

from torch import Tensor


def softened(logits: Tensor, temperature: float, standardised: bool) -> Tensor:
    """N x K scores divided by the temperature; first ``standardised``, to mean 0 and deviation 1 over each sample.

    Standardised, the temperature adapts to the sample, and the student need not match the teacher's range (Sun et al.
    2024, arXiv 2403.01427, section 4). A sample whose scores are all equal becomes zeros; its gradient is finite.
    """
    if not standardised:
        return logits / temperature
    centred = logits - logits.mean(1, keepdim=True)
    variance = centred.square().sum(1, keepdim=True) / max(1, logits.shape[1] - 1)
    return centred / ((variance + 1e-12).sqrt() + 1e-7) / temperature


def class_numbers(labels: Tensor) -> Tensor:
    """N class numbers: of N x K probabilities, where images are mixed, the class of the greater share."""
    return labels if labels.ndim == 1 else labels.argmax(1)
