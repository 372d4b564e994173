"""The README.md of an exported folder: what it is, what it was measured at, and code that loads it.

The code needs transformers, PEFT for an adapter, onnxruntime for ONNX, and nothing of bench; a test runs it.
"""

import re
import shlex
from pathlib import Path
from string import Template
from typing import Any

import yaml
from torch import nn

from bench.model import decoder
from bench.model.adapters.gates import ROUTED
from bench.report.cells import escape_markdown, format_count, format_gib, to_markdown
from bench.results.marks import find_separator
from bench.results.store import Result
from bench.run.manifest import Manifest, Origin, locate

NAME = "README.md"
UNKNOWN = "unknown"
_SHOWN = ('"a text"', '"a text" "its second one"')
_FRONT = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)

_HEAD = Template("""\
import torch
$imports
folder = "."  # this one
tokenizer = AutoTokenizer.from_pretrained(folder)
$load
model.eval()
texts = ["put your texts here"]
""")
_ADAPTER = Template("""\
config = AutoConfig.from_pretrained(folder)
base = $kind.from_pretrained(
    $base, config=config, dtype=torch.float32, ignore_mismatched_sizes=True$options
)
model = PeftModel.from_pretrained(base, folder)""")
_CLASSIFY = Template("""\
inputs = tokenizer(texts, truncation=True, max_length=$max_length, padding=True, return_tensors="pt")
with torch.inference_mode():
    probabilities = $logits.softmax(-1)
for text, row in zip(texts, probabilities):
    print(model.config.id2label[$place], row.tolist(), text)
""")
_ONNX = Template("""\
import json
from pathlib import Path

import numpy as np
import onnxruntime
from transformers import AutoTokenizer

folder = "."  # this one
tokenizer = AutoTokenizer.from_pretrained(folder)
labels = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))["id2label"]
session = onnxruntime.InferenceSession(f"{folder}/model.onnx", providers=["CPUExecutionProvider"])
texts = ["put your texts here"]
inputs = tokenizer(texts, truncation=True, max_length=$max_length, padding=True, return_tensors="np")
(logits,) = session.run(["logits"], {one.name: inputs[one.name] for one in session.get_inputs()})
$normalise
for text, row in zip(texts, probabilities):
    print($answer, row.tolist(), text)
""")
_ONE = (  # label of a text: how logits become probabilities, and these an answer
    "powers = np.exp(logits - logits.max(axis=1, keepdims=True))\n"
    "probabilities = powers / powers.sum(axis=1, keepdims=True)",
    "labels[str(row.argmax())]",
)
_CLASSIFY_SEVERAL = Template("""\
thresholds = torch.tensor($thresholds)
inputs = tokenizer(texts, truncation=True, max_length=$max_length, padding=True, return_tensors="pt")
with torch.inference_mode():
    probabilities = model(**inputs).logits.sigmoid()
for text, row in zip(texts, probabilities):
    labels = [model.config.id2label[place] for place in torch.nonzero(row >= thresholds).flatten().tolist()]
    print(labels, row.tolist(), text)
""")
_WRITE = Template("""\
prompt = json.loads(Path(folder, "bench.json").read_text(encoding="utf-8"))  # its template in token ids
room = $max_length - len(prompt["before"]) - len(prompt["after"]) - max(map(len, prompt["answers"])) + 1
for text in texts:
    ids = tokenizer(text, add_special_tokens=False, truncation=True, max_length=room)["input_ids"]
    read = prompt["before"] + ids + prompt["after"]
    scores = []
    for answer in prompt["scored"]:  # how likely the model writes each label's words
        with torch.inference_mode():
            logits = model(torch.tensor([read + answer[:-1]])).logits[0, len(read) - 1 :].float()
        scores.append(logits.log_softmax(-1)[range(len(answer)), answer].sum())
    row = $scores.softmax(-1)
    print(prompt["labels"][int(row.argmax())], row.tolist(), text)
""")
# What the code above says for one text, and for two.
_FOR_PAIRS = (
    ('["put your texts here"]', '[("put a text here", "and its second one here")]'),
    (
        "inputs = tokenizer(texts,",
        "# a tokenizer without a token to part them gets the second below the first\n"
        'sides = zip(*texts) if tokenizer.sep_token else [["\\n".join(text) for text in texts]]\n'
        "inputs = tokenizer(*map(list, sides),",
    ),
    (' - len(prompt["after"])', ' - len(prompt["between"]) - len(prompt["after"])'),
    (
        "    ids = tokenizer(text, add_special_tokens=False, truncation=True, max_length=room)"
        '["input_ids"]\n',
        '    first, second = (tokenizer(one, add_special_tokens=False)["input_ids"] for one in text)\n'
        "    first = first[: max(room - len(second), room - room // 2)]  # the longer one is cut first\n"
        '    ids = first + prompt["between"] + second[: room - len(first)]\n',
    ),
)


def write(folder: Path, result: Result, manifest: Manifest, *, network: nn.Module, more: str = "") -> None:
    """Put README.md into the folder; ``more`` is a section about what was done since the run."""
    base_license = find_license(manifest.base)
    parts = [
        _front(manifest),
        _describe(result, manifest, network),
        _list_numbers(result, manifest),
        more,
        _list_labels(result, manifest),
        _explain_loading(manifest, network),
        _state_licences(result, base_license),
    ]
    (folder / NAME).write_text("\n".join(part for part in parts if part), encoding="utf-8")


def write_code(manifest: Manifest) -> str:
    """Write Python that loads the folder and classifies texts, without bench."""
    code = _write_onnx_code(manifest) if manifest.kind == "onnx" else _write_torch_code(manifest)
    for one, two in _FOR_PAIRS * manifest.pairs:
        code = code.replace(one, two)
    return code


def _write_torch_code(manifest: Manifest) -> str:
    is_adapter, is_prompted = manifest.kind == "adapter", manifest.prompt is not None
    kind = "AutoModelForCausalLM" if is_prompted else "AutoModelForSequenceClassification"
    names = ["AutoTokenizer", kind, *(["AutoConfig"] if is_adapter else [])]
    if is_adapter and manifest.quantization != "none":
        names.append("BitsAndBytesConfig")
    imports = [f"from transformers import {', '.join(sorted(names))}"]
    if is_adapter:
        imports.insert(0, "from peft import PeftModel")
    if is_prompted:
        imports = ["import json", "from pathlib import Path", *imports]
    if is_adapter:
        load = _ADAPTER.substitute(
            kind=kind, base=_name_base(manifest.base), options=_write_options(manifest)
        )
    else:
        load = f"model = {kind}.from_pretrained(folder, dtype=torch.float32)"
    logits, scores, place = "model(**inputs).logits", "torch.stack(scores)", "int(row.argmax())"
    if manifest.tasks is not None:
        logits, place = f"{logits}[:, heads[task]]", f"heads[task][{place}]"
    if manifest.temperature != 1:
        logits, scores = (f"({one} / {manifest.temperature!r})" for one in (logits, scores))
    template = _CLASSIFY if manifest.thresholds is None else _CLASSIFY_SEVERAL
    use = (_WRITE if is_prompted else template).substitute(
        max_length=manifest.max_length,
        logits=logits,
        scores=scores,
        place=place,
        thresholds=manifest.thresholds,
    )
    use = _choose_head(manifest) + use
    return _HEAD.substitute(imports="\n".join(imports) + "\n", load=load) + use


def _choose_head(manifest: Manifest) -> str:
    """Write which outputs answer the texts, if the model has several tasks."""
    if manifest.tasks is None:
        return ""
    heads = {task: [manifest.labels.index(label) for label in own] for task, own in manifest.tasks.items()}
    return f"heads = {heads!r}\ntask = {next(iter(heads))!r}  # of these texts, whose labels they get\n"


def _write_onnx_code(manifest: Manifest) -> str:
    normalise, answer = _ONE
    if manifest.tasks is not None:
        normalise = f"{_choose_head(manifest)}logits = logits[:, heads[task]]\n{normalise}"
        answer = "labels[str(heads[task][row.argmax()])]"
    if manifest.thresholds is not None:
        normalise = "probabilities = 1 / (1 + np.exp(-logits))"
        answer = f"[labels[str(place)] for place in np.flatnonzero(row >= {manifest.thresholds})]"
    if manifest.temperature != 1:
        normalise = f"logits /= {manifest.temperature!r}\n{normalise}"
    return _ONNX.substitute(max_length=manifest.max_length, normalise=normalise, answer=answer)


def find_license(base: Origin) -> str:
    """Return the licence that the base's own card declares, where it is beside the weights."""
    try:
        text = (locate(base) / NAME).read_text(encoding="utf-8")
        front = yaml.safe_load(match[1]) if (match := _FRONT.match(text)) else None
    except (OSError, ValueError, yaml.YAMLError):
        return UNKNOWN
    licence = front.get("license") if isinstance(front, dict) else None
    return licence if isinstance(licence, str) and licence else UNKNOWN


def _name_base(base: Origin) -> str:
    return repr(base.hub_id if base.source == "hub" else str(locate(base).resolve()))


def _write_options(manifest: Manifest) -> str:
    """Write the further arguments of from_pretrained: a hub's commit, and quantisation."""
    options = f", revision={manifest.base.revision!r}" if manifest.base.source == "hub" else ""
    if manifest.quantization == "none":
        return options
    if manifest.quantization == "int8":
        held = "load_in_8bit=True, "
    else:
        held = f'load_in_4bit=True, bnb_4bit_quant_type="{manifest.quantization}", '
        held += f"bnb_4bit_use_double_quant={manifest.double_quant}, "
    held += f"llm_int8_skip_modules={manifest.unquantised}"
    return f"{options},\n    quantization_config=BitsAndBytesConfig({held})"


def _front(manifest: Manifest) -> str:
    """Return the metadata that model hubs read."""
    libraries, is_own = {"adapter": "peft", "onnx": "onnx"}, _is_routed(manifest)
    values: dict[str, Any] = {
        "license": UNKNOWN,
        "library_name": "bench" if is_own else libraries.get(manifest.kind, "transformers"),
        "pipeline_tag": "text-classification",
        "tags": [manifest.method, "bench"],
    }
    if manifest.base.source == "hub":
        values["base_model"] = manifest.base.hub_id
    return f"---\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True)}---\n"


def _describe(result: Result, manifest: Manifest, network: nn.Module) -> str:
    title = escape_markdown(str(result.config["method"]["title"]))
    base, what = manifest.base, "adapter" if manifest.kind == "adapter" else "model"
    origin = f"`{base.hub_id}` at `{base.revision}`" if base.source == "hub" else f"content `{base.content}`"
    lines = [
        f"# {title} on {escape_markdown(base.name)}\n",
        f"A text classifier of {len(manifest.labels)} labels. This folder holds the {what} that bench's run "
        f"`{result.run_id}` trained with seed {result.config['seed']}, at its best validation score. "
        f"Base model: {escape_markdown(base.name)} ({type(network).__name__}; {origin}).\n",
    ]
    if manifest.kind == "adapter" and manifest.quantization != "none":
        lines.append(
            f"It was trained on the base in {manifest.quantization} and is at its best there; the code below "
            "quantises the base so. On the unquantised base it may predict otherwise.\n"
        )
    start = str(result.config["method"]["adapter"].get("init_lora_weights", ""))
    if manifest.kind == "adapter" and start.startswith("pissa"):
        lines.append(
            "Its start was taken out of the base while it was trained. What is here fits the base as it is, "
            "and so has twice the rank.\n"
        )
    if type(network).__module__.startswith("bench."):
        lines.append(
            "transformers does not have this architecture: it loads with bench alone (`bench.load`), or with "
            "`import bench.model.chatglm` before the code below.\n"
        )
    return "\n".join(lines)


def _list_numbers(result: Result, manifest: Manifest) -> str:
    test, validation = result.metrics["test"], result.metrics["validation"]
    peak = next(
        (
            f"{format_gib(value)} GiB ({escape_markdown(str(result.memory['kind']))})"
            for name in ("peak_reserved_bytes", "peak_resident_bytes")
            if (value := (result.memory.get("train") or {}).get(name)) is not None
        ),
        UNKNOWN,
    )
    accuracy = "Accuracy" if find_separator(result.config) is None else "Exact match"
    seconds, sizes = result.time.get("train_seconds"), result.data["sizes"]
    rows = [
        [f"{accuracy}, test", UNKNOWN if test is None else f"{test['accuracy']:.2%}"],
        ["F1 (macro), test", UNKNOWN if test is None else f"{test['f1_macro']:.2%}"],
        [f"{accuracy}, validation", f"{validation['accuracy']:.2%}"],
        ["Trainable parameters", format_count(result.parameters["trainable"])],
        ["Train time", UNKNOWN if seconds is None else f"{seconds:.1f} s"],
        ["Peak memory in training", peak],
        ["Computed in", str(result.model["precision"])],
        [
            "Temperature, fitted on validation",
            "none" if manifest.temperature == 1 else f"{manifest.temperature:.3f}",
        ],
        ["Texts", ", ".join(f"{count} {split}" for split, count in sizes.items())],
        ["Data", escape_markdown(str(result.config["data"]["name"]))],
        ["Fingerprint of the data", str(result.data["fingerprint"])[:16]],
    ]
    return "## Numbers of the run\n\n" + to_markdown(["", "Value"], rows, left={0, 1})


def _list_labels(result: Result, manifest: Manifest) -> str:
    counts = result.data["label_counts"]["train"]
    words = manifest.label_words
    thresholds = None if manifest.thresholds is None else [f"{one:.4f}" for one in manifest.thresholds]
    more = words or thresholds
    rows = [
        [str(number), escape_markdown(label), str(counts[label])]
        + ([escape_markdown(more[number])] if more else [])
        for number, label in enumerate(manifest.labels)
    ]
    header = ["Output", "Label", "Texts in train", *(["Words" if words else "Threshold"] if more else [])]
    text = "## Labels\n\n" + to_markdown(header, rows, left={1, 3})
    if thresholds is not None:
        text += (
            "\nA text has every label whose probability, the sigmoid of its output, reaches its threshold.\n"
        )
    if manifest.tasks is not None:
        text += "\nA text is answered by the labels of its own task alone, the softmax of their outputs.\n"
    if manifest.template is None:
        return text
    return f"{text}\nThe model writes a label's words after this prompt:\n\n{_block(manifest.template)}"


def _explain_loading(manifest: Manifest, network: nn.Module) -> str:
    shown, named = _SHOWN[manifest.pairs], ""
    if manifest.tasks is not None:
        shown, named = f"--task {shlex.quote(next(iter(manifest.tasks)))} {shown}", ", tasks=[...]"
    use = (
        f"## Use\n\nWith bench: `bench classify DIR {shown}`, or "
        f"`bench.load(DIR).predict(texts{named})` in Python. "
    )
    if _is_routed(manifest):
        return (
            f"{use}PEFT alone cannot load this folder, and says so: it has no layer in which a gate weighs "
            f"{manifest.experts} experts, and the kind in adapter_config.json, {ROUTED}, keeps it from "
            "leaving the gates out. Nor can it be merged into its base, as what the gates weigh depends on "
            "the text.\n"
        )
    note = (
        "\nA decoder's head reads the last token that is not the pad token in transformers; bench goes by "
        "the attention mask, which differs for texts that end in the pad token.\n"
        if manifest.kind != "onnx" and manifest.prompt is None and decoder.is_decoder(network)
        else ""
    )
    long_texts = (
        ""
        if manifest.long_texts == "truncate"
        else f"\nThe run read texts of more than {manifest.max_length} tokens by data.long_texts="
        f"{manifest.long_texts}, as bench does; the code above cuts them at their end.\n"
    )
    precision = (
        ""
        if manifest.precision == "fp32"
        else f"\nThe run computed in {manifest.precision}; in fp32, as here, probabilities differ slightly.\n"
    )
    return f"{use}Without it:\n\n{_block(write_code(manifest), 'python')}{note}{long_texts}{precision}"


def _is_routed(manifest: Manifest) -> bool:
    """Tell whether the folder holds an adapter with gates, which only bench can load."""
    return manifest.kind == "adapter" and manifest.experts is not None


def _state_licences(result: Result, base_license: str) -> str:
    origin = "as its own card says" if base_license != UNKNOWN else "it comes with no card that names one"
    name = escape_markdown(str(result.config["data"]["name"]))
    return (
        "## Licences\n\n"
        f"- Base model: {escape_markdown(base_license)} ({origin})\n"
        f"- Data ({name}): {UNKNOWN}; bench does not record one\n"
        f"- What was trained: {UNKNOWN}; it is its maker's to say, within what the two above allow\n"
    )


def _block(text: str, language: str = "") -> str:
    """Return the text as a block that no line of it can end."""
    longest = max((len(one) for one in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip(chr(10))}\n{fence}\n"
