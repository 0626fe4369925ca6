"""How far a quantised streaming network drifts from the float one over many frames, its states fed back.

    python benchmarks/stream_drift.py FLOAT_BUNDLE BUNDLE SEQUENCES.npz [--frames 500]

Both bundles run over the same frames, each on states of its own. Printed is the SNR in dB of each output that is no
state, for the first tenth of the frames, the last tenth and all: a drift shows as a last tenth below the first.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressor.api import LoadedBundle, load_bundle
from compressor.data import feed_back, states_of


def run(bundle: LoadedBundle, steps: Sequence[dict[str, NDArray[Any]]]) -> dict[str, NDArray[np.float64]]:
    """Run a bundle over frames and return what each output was, frame by frame."""
    states = states_of(bundle.signature, steps[0])
    made = [outputs for _, outputs in feed_back(bundle.session, steps, states)]
    names = [name for name in made[0] if name not in states.values()]
    return {name: np.stack([outputs[name] for outputs in made]).astype(np.float64) for name in names}


def decibels(expected: NDArray[np.float64], got: NDArray[np.float64]) -> float:
    noise = float(((expected - got) ** 2).mean())
    return 200.0 if noise == 0 else 10 * float(np.log10(float((expected**2).mean()) / noise))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("float_bundle", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("sequences", type=Path)
    parser.add_argument("--frames", type=int, default=500)
    options = parser.parse_args()
    frames = {name: array.reshape(-1, *array.shape[2:]) for name, array in np.load(options.sequences).items()}
    count = min(options.frames, *(len(array) for array in frames.values()))
    steps = [{name: array[i] for name, array in frames.items()} for i in range(count)]
    expected, got = (run(load_bundle(path), steps) for path in (options.float_bundle, options.bundle))
    tenth = max(1, count // 10)
    for name in expected:
        parts = (slice(tenth), slice(-tenth, None), slice(None))
        first, last, whole = (decibels(expected[name][part], got[name][part]) for part in parts)
        print(f"{name}: {count} frames, first tenth {first:.1f} dB, last tenth {last:.1f} dB, all {whole:.1f} dB")


if __name__ == "__main__":
    main()
