"""What kind of functions are the networks that people train? A census, with the time a certificate takes.

    PYTHONPATH=FOLDER python benchmarks/structure_census.py [--torchvision N] [--timm N] [--transformers] [--large]

Question: on meta tensors (no weights, no arithmetic), for the model families that are installed, what class,
smoothness and autodiff level has the output in the parameters, how long does the certificate take (median and 95th
percentile), and which models get none, and why? No peer answers the first question, so none is timed. FOLDER may
hold timm and transformers, which tameopt does not need.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

import tameopt
from tameopt.structure import certify

Row = dict[str, Any]
_PEERS = ("torchvision", "timm", "transformers")


def _import_torchvision() -> None:
    """torchvision, also where its wheel was built for another torch; classification needs none of its own operators.

    Its Python part imports once they are declared. A detection model would then fail with a message, not lie.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        boxes = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", boxes)


class _WeightsOnMeta(TorchFunctionMode):
    """Layers get their weights on the meta device; what a constructor computes (widths, schedules) is real."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def _built(make: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    try:
        with _WeightsOnMeta():
            return make().eval().to("meta")
    except RuntimeError:
        # a constructor that mixes its weights with tensors of its own
        return make().eval().to("meta")


def torchvision_models(limit: int) -> Iterator[tuple[str, Callable[[], tuple[torch.nn.Module, Any]]]]:
    """torchvision's builders for classification, segmentation, video and optical flow, up to `limit`.

    Detection needs boxes that depend on values, which the meta device has none of; the quantised copies of
    classification models are those of the float ones before conversion.
    """
    _import_torchvision()
    import torchvision

    kinds = (
        (torchvision.models, (1, 3, 224, 224)),
        (torchvision.models.segmentation, (1, 3, 224, 224)),
        (torchvision.models.video, (1, 3, 16, 224, 224)),
        (torchvision.models.optical_flow, (1, 3, 128, 128)),
    )
    found = [(name, size) for module, size in kinds for name in torchvision.models.list_models(module=module)]
    for name, size in found[:limit]:

        def build(name: str = name, size: tuple[int, ...] = size) -> tuple[torch.nn.Module, Any]:
            model = _built(lambda: torchvision.models.get_model(name, weights=None, **_backbone(name)))
            shape = (1, 3, 299, 299) if "inception" in name else size
            image = torch.zeros(shape, device="meta")
            return model, (image, image) if name.startswith("raft") else image

        yield f"torchvision/{name}", build


def _backbone(name: str) -> dict[str, Any]:
    """No download of a pretrained backbone."""
    return {"weights_backbone": None} if name.startswith(("deeplab", "fcn", "lraspp")) else {}


def transformers_models() -> Iterator[tuple[str, Callable[[], tuple[torch.nn.Module, Any]]]]:
    """One small model a family, built from its configuration on the meta device."""
    _import_torchvision()
    import transformers as hf

    small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    tokens = {"vocab_size": 100}
    text = ("input_ids",)
    families: dict[str, tuple[Any, Any, tuple[str, ...]]] = {
        "bert": (hf.BertConfig(**small, **tokens), hf.BertForMaskedLM, text),
        "roberta": (hf.RobertaConfig(**small, **tokens), hf.RobertaForMaskedLM, text),
        "gpt2": (hf.GPT2Config(n_embd=64, n_layer=2, n_head=4, **tokens), hf.GPT2LMHeadModel, text),
        "llama": (hf.LlamaConfig(**small, **tokens), hf.LlamaForCausalLM, text),
        "mistral": (hf.MistralConfig(**small, **tokens, num_key_value_heads=2), hf.MistralForCausalLM, text),
        "qwen2": (hf.Qwen2Config(**small, **tokens, num_key_value_heads=2), hf.Qwen2ForCausalLM, text),
        "opt": (
            hf.OPTConfig(
                hidden_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                ffn_dim=128,
                word_embed_proj_dim=64,
                **tokens,
            ),
            hf.OPTForCausalLM,
            text,
        ),
        "gpt_neox": (hf.GPTNeoXConfig(**small, **tokens), hf.GPTNeoXForCausalLM, text),
        "phi": (hf.PhiConfig(**small, **tokens), hf.PhiForCausalLM, text),
        "t5": (
            hf.T5Config(d_model=64, d_ff=128, num_layers=2, num_heads=4, d_kv=16, **tokens),
            hf.T5ForConditionalGeneration,
            ("input_ids", "decoder_input_ids"),
        ),
        "distilbert": (
            hf.DistilBertConfig(dim=64, n_layers=2, n_heads=4, hidden_dim=128, **tokens),
            hf.DistilBertForMaskedLM,
            text,
        ),
        "electra": (hf.ElectraConfig(**small, **tokens), hf.ElectraForMaskedLM, text),
        "albert": (hf.AlbertConfig(**small, **tokens, embedding_size=32), hf.AlbertForMaskedLM, text),
        "vit": (hf.ViTConfig(**small, image_size=32, patch_size=8), hf.ViTForImageClassification, ("pixel_values",)),
        "deit": (
            hf.DeiTConfig(**small, image_size=32, patch_size=8),
            hf.DeiTForImageClassification,
            ("pixel_values",),
        ),
        "resnet": (hf.ResNetConfig(), hf.ResNetForImageClassification, ("pixel_values",)),
        "convnext": (hf.ConvNextConfig(), hf.ConvNextForImageClassification, ("pixel_values",)),
    }
    for name, (config, kind, arguments) in families.items():

        def build(config: Any = config, kind: Any = kind, arguments: Any = arguments) -> tuple[torch.nn.Module, Any]:
            if hasattr(config, "num_attention_heads"):
                config._attn_implementation = "sdpa"
            side = getattr(config, "image_size", 64)
            model = _built(lambda: kind(config))
            with torch.device("meta"):
                inputs = {
                    key: torch.zeros(1, 3, side, side) if "pixel" in key else torch.zeros(1, 12, dtype=torch.long)
                    for key in arguments
                }
            return model, inputs

        yield f"transformers/{name}", build


def timm_models(limit: int) -> Iterator[tuple[str, Callable[[], tuple[torch.nn.Module, Any]]]]:
    """The first architecture of each of timm's model files, up to `limit`."""
    _import_torchvision()
    import timm

    seen: dict[str, str] = {}
    for name in timm.list_models():
        module = timm.models.model_entrypoint(name).__module__
        seen.setdefault(module, name)
    for name in list(seen.values())[:limit]:

        def build(name: str = name) -> tuple[torch.nn.Module, Any]:
            model = _built(lambda: timm.create_model(name))
            size = model.default_cfg.get("input_size", (3, 224, 224))  # type: ignore[union-attr]
            return model, torch.zeros(1, *size, device="meta")

        yield f"timm/{name}", build


def large_models() -> Iterator[tuple[str, Callable[[], tuple[torch.nn.Module, Any]]]]:
    """A Llama configuration of 7 billion parameters, on the meta device."""
    _import_torchvision()
    import transformers as hf

    def build() -> tuple[torch.nn.Module, Any]:
        model = _built(lambda: hf.LlamaForCausalLM(hf.LlamaConfig()))
        return model, {"input_ids": torch.zeros(1, 128, dtype=torch.long, device="meta")}

    yield "transformers/llama-7b", build


def measure(name: str, build: Callable[[], tuple[torch.nn.Module, Any]]) -> Row:
    """Build a model and certify its output."""
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(None):
            warnings.simplefilter("ignore")
            model, inputs = build()
            start, worked = time.perf_counter(), time.process_time()
            found = certify(model, inputs=inputs)
            seconds, busy = time.perf_counter() - start, time.process_time() - worked
    except Exception as error:  # noqa: BLE001  a census goes on, and reports what failed
        return {"name": name, "failed": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
    return {
        "name": name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "definable": found.definable,
        "degree": found.degree,
        "smoothness": found.smoothness,
        "autodiff": found.autodiff,
        "total": found.total,
        "verdict": str(found.verdict),
        "operations": len(found.operations),
        "seconds": seconds,
        "cpu_seconds": busy,
        "why": str(found.obstructions[0]) if found.obstructions else "",
    }


def _count(rows: list[Row], verdict: str) -> int:
    return sum(row["verdict"] == verdict for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timm", type=int, default=0)
    parser.add_argument("--torchvision", type=int, default=0)
    parser.add_argument("--transformers", action="store_true")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--json")
    chosen = parser.parse_args()
    sources: list[tuple[str, Callable[[], tuple[torch.nn.Module, Any]]]] = []
    if chosen.transformers:
        sources += transformers_models()
    if chosen.torchvision:
        sources += torchvision_models(chosen.torchvision)
    if chosen.timm:
        sources += timm_models(chosen.timm)
    if chosen.large:
        sources += large_models()
    # the first certificate pays for imports and probes
    certify(torch.nn.Linear(2, 1), inputs=torch.ones(1, 2))
    rows = []
    for name, build in sources:
        row = measure(name, build)
        rows.append(row)
        words = row.get("failed") or (
            f"{row['definable']}{'' if row['degree'] is None else ' of degree ' + str(row['degree'])}, "
            f"{row['smoothness']}, {row['autodiff']}, {row['verdict']}, {row['seconds']:.2f} s"
            + (f" | {row['why']}" if row["why"] else "")
        )
        print(f"{name:<44}{words}", flush=True)
    done = [row for row in rows if "failed" not in row]
    if done:
        known = sum(row["definable"] != "unknown" for row in done)
        print(
            f"\n{len(done)} ran of {len(rows)} tried; {known} have a class, {_count(done, 'PROVED')} of them PROVED"
        )
        for key, words in (("seconds", "seconds on the wall"), ("cpu_seconds", "seconds of the processor")):
            times = sorted(row[key] for row in done)
            last = times[min(len(times) - 1, int(0.95 * len(times)))]
            quartiles = statistics.quantiles(times, n=4) if len(times) > 1 else [times[0]] * 3
            print(
                f"{words}: median {quartiles[1]:.2f}, quartiles {quartiles[0]:.2f} to {quartiles[2]:.2f}, "
                f"95% {last:.2f}, most {times[-1]:.2f}"
            )
        for key in ("definable", "smoothness", "autodiff"):
            print(f"{key}: {dict(collections.Counter(row[key] for row in done))}")
        lipschitz = sum(row["smoothness"] not in ("analytic",) for row in done)
        print(f"not analytic: {lipschitz} of {len(done)} ({100 * lipschitz / len(done):.0f}%)")
    versions = [f"{name} {sys.modules[name].__version__}" for name in _PEERS if name in sys.modules]
    print(", ".join([f"tameopt {tameopt.__version__}, torch {torch.__version__}", *versions]))
    print(f"Python {platform.python_version()}, {platform.machine()}, meta device, float32, {os.cpu_count()} cores")
    if chosen.json:
        with open(chosen.json, "w") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
