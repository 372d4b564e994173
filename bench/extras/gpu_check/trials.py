"""What is tried on the device itself: called by lab.py, in a process of its own as this makes a CUDA context.

``python -m bench.extras.gpu_check.trials NAME FILE`` writes each proof to the file as it is found.
"""

import contextlib
import importlib.util
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from bench.config.cards import recognise
from bench.errors import BenchError
from bench.extras.doctor import examine_cards, examine_device
from bench.extras.gpu_check.lab import ROOT, Proof
from bench.model.trained import DTYPES
from bench.run import driver, provenance
from bench.train.device import choose_precision, is_wsl
from bench.train.meter import Meter

GOLDENS = ROOT / "tests" / "assets" / "chatglm"  # its README is in their own repository
LOSS_ERROR = 1e-4  # of ten steps in fp32 on two devices
GOLDEN_ERROR = 1e-4  # of logits in fp32; on the CPU 2e-5 is kept
CODES_DIFFERING = 1e-4  # of NF4 weights that are quantised on two devices
STEPS = 10


def try_device(device: torch.device) -> Iterator[Proof]:
    """Try the driver, torch, bitsandbytes, NVML and attention: what everything else stands on."""
    yield _describe_machine(device)
    for finding in (*examine_cards("auto"), *examine_device(device)):
        is_missing = finding.detail.startswith("ModuleNotFoundError")  # which is no fault of the card
        yield Proof(finding.name, None if is_missing else finding.works, finding.detail)
    yield _find_library(device)
    yield _find_process(device)
    for precision in dict.fromkeys(("fp32", choose_precision("auto", device))):
        yield _compare_attention(device, precision)


def _describe_machine(device: torch.device) -> Proof:
    """Describe the device for the parts after this one, and for the report."""
    machine: dict[str, Any] = {"provenance": provenance.describe(model_revision=None)}
    if device.type == "cpu":
        detail = "finds no CUDA device; what a CPU can is tried"
        return Proof("torch", None, detail, {"machine": machine})
    gpu, chosen = torch.cuda.get_device_name(device), driver.choose("auto").devices
    card = recognise(gpu)
    machine |= {
        "gpu": gpu,
        "card": gpu if card is None else card.name,
        "uuid": chosen[0].uuid if chosen else None,
        "memory_bytes": torch.cuda.get_device_properties(device).total_memory,
        "pages": not is_wsl(),
    }
    return Proof("torch", True, f"uses the {gpu} by CUDA {torch.version.cuda}", {"machine": machine})


def _find_library(device: torch.device) -> Proof:
    """Look which native library bitsandbytes has loaded: without CUDA's it fails at the first step only."""
    name = "bitsandbytes' library"
    if importlib.util.find_spec("bitsandbytes") is None:
        return Proof(name, None, "bitsandbytes is not installed")
    from bitsandbytes.cextension import lib

    kind = type(lib).__name__
    wanted = "CudaBNBNativeLibrary" if device.type == "cuda" else "BNBNativeLibrary"
    if kind == wanted:
        return Proof(name, True, kind)
    return Proof(
        name,
        False,
        f"{kind} is loaded, and a {device.type} device needs {wanted}; see `python -m bitsandbytes`",
    )


def _find_process(device: torch.device) -> Proof:
    """Look whether NVML knows this process, as a run's record has it."""
    name = "this process in NVML"
    if device.type != "cuda":
        return Proof(name, None, "NVML is of NVIDIA's cards")
    meter = Meter(device)
    with meter.phase("load"):
        torch.ones(2**20, device=device).sum()
    held_bytes = meter.peaks["load"]["nvml_peak_bytes"]
    if held_bytes is not None:
        return Proof(name, True, f"holds {held_bytes / 2**20:.0f} MiB")
    reasons = meter.null_reasons()
    reason = reasons.get("memory.*.nvml_peak_bytes", "NVML lists other process numbers, as in a container")
    return Proof(name, None, f"{reason}; records have no nvml_peak_bytes here")


def _compare_attention(device: torch.device, precision: str) -> Proof:
    """Hold torch's attention against its formula, with texts padded on the left."""
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randn(3, 4, 96, 64, generator=generator) for _ in range(3)]
    query, key, value = (draw.to(device, DTYPES[precision]).requires_grad_() for draw in draws)
    starts = torch.tensor([0, 17, 60])[:, None, None, None]
    places = torch.arange(96)
    mask = (places[None, :] <= places[:, None]) & (places >= starts) | torch.eye(96, dtype=torch.bool)
    mask = mask.to(device)  # (texts, 1, queries, keys)
    attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    torch.autograd.backward(attended.square().sum())
    slope, query.grad = query.grad, None
    scores = (query.float() @ key.float().mT / 8).masked_fill(~mask, -torch.inf)
    expected = scores.softmax(-1) @ value.float()
    torch.autograd.backward(expected.square().sum())
    assert slope is not None  # backward has just made it
    assert query.grad is not None
    errors = [_measure_error(attended, expected), _measure_error(slope, query.grad)]
    works = max(errors) < (1e-5 if precision == "fp32" else 0.03)
    return Proof(
        f"attention in {precision}",
        works,
        f"masked SDPA is within {errors[0]:.1e} of its formula, its gradient within {errors[1]:.1e}",
    )


def _measure_error(computed: torch.Tensor, expected: torch.Tensor) -> float:
    """Measure the largest difference, as a share of the largest value that was expected."""
    computed, expected = computed.detach().float(), expected.detach().float()
    return float((computed - expected).abs().max() / expected.abs().max())


def try_agreement(device: torch.device) -> Iterator[Proof]:
    """Try whether the device computes what the CPU does, and what the public ChatGLM-6B does."""
    yield _compare_golden(device)
    if device.type == "cpu":
        yield Proof("CPU and card", None, "there is no card to compare the CPU with")
        return
    losses = [_train(torch.device(one)) for one in ("cpu", device)]
    error = max(abs(loss - other) for loss, other in zip(*losses, strict=True))
    yield Proof(
        "ten steps in fp32",
        error < LOSS_ERROR,
        f"losses are within {error:.1e} of the CPU's; the last is {losses[1][-1]:.4f}",
    )
    yield _compare_four_bit(device)


def _compare_golden(device: torch.device) -> Proof:
    """Hold ChatGLM's network against numbers of the public implementation, in fp32."""
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    import bench.model.chatglm  # noqa: F401 (makes the Auto classes know ChatGLM)

    name = "ChatGLM-6B's network"
    if not GOLDENS.exists():
        return Proof(name, None, f"{GOLDENS.relative_to(ROOT)} is not in this checkout")
    make: Any = AutoModelForCausalLM
    model = make.from_pretrained(GOLDENS, dtype=torch.float32, local_files_only=True).eval().to(device)
    golden = load_file(GOLDENS / "batch_cls_leftpad.safetensors")
    ids, real = golden["input_ids"].to(device), golden["input_ids"] != model.config.pad_token_id
    with torch.inference_mode():
        logits = model(ids, attention_mask=real.long().to(device)).logits.cpu()
    error = float((logits - golden["logits"])[real].abs().max())
    return Proof(
        name, error < GOLDEN_ERROR, f"three layers are within {error:.1e} of the public code's logits"
    )


def _train(device: torch.device) -> list[float]:
    """Train two layers of Qwen3 for ten steps in fp32: the loss of each."""
    from transformers import Qwen3Config, Qwen3ForSequenceClassification

    configure: Any = Qwen3Config  # whose annotations lack what all configurations have
    settings = configure(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_labels=8,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model: Any = Qwen3ForSequenceClassification(settings).train()
    model = model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    generator, losses = torch.Generator().manual_seed(1), []
    for _ in range(STEPS):
        ids = torch.randint(1, 512, (8, 48), generator=generator)
        mask = (torch.arange(48) < torch.randint(8, 49, (8, 1), generator=generator)).long()
        labels = torch.randint(8, (8,), generator=generator)
        loss = model((ids * mask).to(device), attention_mask=mask.to(device), labels=labels.to(device)).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def _compare_four_bit(device: torch.device) -> Proof:
    """Hold NF4 on the device against NF4 on the CPU."""
    name = "NF4 dequantised"
    if importlib.util.find_spec("bitsandbytes") is None:
        return Proof(name, None, "bitsandbytes is not installed")
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    weights = torch.randn(512, 512, generator=torch.Generator().manual_seed(0))
    state: Any  # without annotations
    packed, state = quantize_4bit(weights, blocksize=64, quant_type="nf4")
    expected = dequantize_4bit(packed, state)
    made_here = dequantize_4bit(*quantize_4bit(weights.to(device), blocksize=64, quant_type="nf4")).cpu()
    state.to(device)
    same = torch.equal(dequantize_4bit(packed.to(device), state).cpu(), expected)
    differing = float((made_here != expected).float().mean())  # where a weight lies between two codes
    return Proof(
        name,
        same and differing <= CODES_DIFFERING,
        f"the CPU's are {'the same' if same else 'different'} here; {differing:.3%} of its own codes differ",
    )


def try_paging(device: torch.device) -> Iterator[Proof]:
    """Try whether the paged 8-bit AdamW pages, and takes the same steps as the one that does not."""
    from bitsandbytes.optim.adamw import AdamW8bit, PagedAdamW8bit

    weights, paged = [], []
    kinds: list[Any] = [AdamW8bit, PagedAdamW8bit]  # without annotations
    for kind in kinds:
        weight = nn.Parameter(torch.randn(512, 512, generator=torch.Generator().manual_seed(0)).to(device))
        optimizer, generator = kind([weight], lr=1e-2), torch.Generator().manual_seed(1)
        for _ in range(STEPS):
            weight.grad = torch.randn(512, 512, generator=generator).to(device)
            optimizer.step()
        weights.append(weight.detach().cpu())
        states = optimizer.state[weight]
        paged.append([bool(getattr(states[name], "is_paged", False)) for name in ("state1", "state2")])
    yield Proof(
        "paged", paged == [[False] * 2, [True] * 2], f"states are paged: unpaged {paged[0]}, paged {paged[1]}"
    )
    same = torch.equal(*weights)
    yield Proof(
        "equal steps", same, f"{STEPS} steps of 512 x 512 weights are {'the same' if same else 'different'}"
    )


TRIALS = {"device": try_device, "agreement": try_agreement, "paging": try_paging}


def main(name: str, path: str) -> None:
    """Try one thing on the device that runs get, and write down its proofs."""
    with contextlib.suppress(BenchError):  # examine_cards says it
        driver.take("auto")  # before torch looks at the cards
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with Path(path).open("w", encoding="utf-8") as file:
        for proof in TRIALS[name](device):
            file.write(json.dumps(asdict(proof)) + "\n")
            file.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
