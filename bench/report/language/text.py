"""Every sentence of the tables, in each language; figures and names come in by braces."""

from collections.abc import Mapping
from dataclasses import dataclass

from bench.errors import ConfigError
from bench.report.language import captions, counsel, prose, sentences
from bench.report.language.captions import Captions
from bench.report.language.counsel import Counsel
from bench.report.language.prose import Prose
from bench.report.language.sentences import Sentences

COLUMNS = (
    "method",
    "memory",
    "train_time",
    "accuracy",
    "f1_macro",
    "trainable",
    "seeds",
    "interval",
    "hyperparameters",
    "runs",
)
EXTRAS = (
    "data",
    "model",
    "memory_kind",
    "status",
    "memory_bytes",
    "train_seconds",
    "joules",
    "validation",
    "accuracy_low",
    "accuracy_high",
    "interval_over",
    "texts_low",
    "texts_high",
    "accuracy_sd",
    "f1_macro_low",
    "f1_macro_high",
    "f1_macro_sd",
    "total",
    "weights",
    "run_ids",
)


@dataclass(frozen=True)
class Text:
    """One language."""

    columns: Mapping[str, str]  # headers of both tables; the first six are fixed by the contract
    extras: Mapping[str, str]  # more headers, of table.csv alone
    memory_columns: Mapping[str, str]  # by kind: table.md never shows a peak without its kind
    paged: str  # a peak of the card, and what was paged beside it
    paged_column: str  # of table.csv, where something was paged
    paged_note: str
    statuses: Mapping[str, str]
    metrics: Mapping[str, str]
    heading: str
    heading_without_model: str
    of_content: str  # tells tasks of the same names apart
    test_size: str
    durations: tuple[str, str, str, str]  # below a second, below a minute, below an hour, from an hour
    percent: str
    intervals: Mapping[str, str]  # by what the accuracy varies over
    any_seed: str
    nothing: str
    counted: str  # a status and how often
    comma: str
    either: str  # between the last two of several seeds
    between: str  # two ends of a range
    tried: str
    empty: str
    notes: str
    choice: str
    at_seed: str
    numbers: str
    memory_notes: Mapping[str, str]
    spread: str
    spreads: Mapping[str, str]  # what an interval's mark means
    any_seed_note: str
    unsuccessful: str
    unfinished: str
    still_running: str  # above the table of a sweep that has not ended
    bad: str
    bad_one: str
    no_success: str
    first_error: str
    some_seeds: str
    random_weights: str
    unknown: str
    no_reason: str
    not_alone: str
    none_alone: str
    prose: Prose  # of the sections below the tables
    sentences: Sentences  # of the findings, the article's claims and imports
    counsel: Counsel  # of recommendations
    captions: Captions  # of report.html and its figures


ENGLISH = Text(
    columns={
        "method": "Method",
        "memory": "Peak memory (GiB)",
        "train_time": "Train time",
        "accuracy": "Accuracy",
        "f1_macro": "F1 (macro)",
        "trainable": "Trainable parameters",
        "seeds": "Seeds",
        "interval": "95 % interval (accuracy)",
        "hyperparameters": "Chosen hyperparameters",
        "runs": "Runs tried/failed",
    },
    extras={
        "data": "Data",
        "model": "Model",
        "memory_kind": "Memory kind",
        "status": "Status",
        "memory_bytes": "Peak memory (bytes)",
        "train_seconds": "Train time (s)",
        "joules": "Energy (J)",
        "validation": "Validation score",
        "accuracy_low": "Accuracy interval low",
        "accuracy_high": "Accuracy interval high",
        "interval_over": "Accuracy interval over",
        "texts_low": "Accuracy interval over texts low",
        "texts_high": "Accuracy interval over texts high",
        "accuracy_sd": "Accuracy standard deviation",
        "f1_macro_low": "F1 interval low",
        "f1_macro_high": "F1 interval high",
        "f1_macro_sd": "F1 standard deviation",
        "total": "Total parameters",
        "weights": "Base weights",
        "run_ids": "Run ids",
    },
    memory_columns={
        "cuda": "Peak memory (GiB, CUDA reserved)",
        "cpu_resident": "Peak memory (GiB, CPU resident)",
    },
    paged="{memory} + {paged} paged to RAM",
    paged_column="Paged to RAM (GiB)",
    paged_note="Paged to RAM: optimizer states that CUDA moves between the machine's memory and the GPU; the "
    "peak before them does not count them.",
    statuses={
        "success": "no validation score",
        "failed": "failed",
        "oom": "out of memory",
        "diverged": "diverged",
        "timeout": "timed out",
        "interrupted": "interrupted",
        "crashed": "crashed",
        "invalid": "invalid",
        "started": "unfinished",
    },
    metrics={"accuracy": "accuracy", "f1_macro": "F1 (macro)"},
    heading="{data}, {model}",
    heading_without_model="{data}",
    of_content="{heading} (data {fingerprint}, model {revision})",
    test_size="{heading}: {size} test texts",
    durations=("{seconds:.3f} s", "{seconds:.1f} s", "{minutes} min {rest:02d} s", "{hours:.1f} h"),
    percent="{:.1f} %",
    intervals={
        "seeds_and_texts": "{:.1f}–{:.1f} %",
        "other_seeds_and_texts": "{:.1f}–{:.1f} % (others' seeds)",
        "texts": "{:.1f}–{:.1f} %",
        "texts_alone": "{:.1f}–{:.1f} % (texts alone)",
    },
    any_seed="any",
    nothing="none",
    counted="{count} {status}",
    comma=", ",
    either=" or ",
    between=" to ",
    tried="{tried} tried, {failed} failed",
    empty="No runs yet: `bench sweep` makes them.",
    notes="Notes",
    choice="A method's best configuration is the one with the highest validation {metric}{at_seed}; "
    "ties go to the lower validation loss. The test split has no part in the choice.",
    at_seed=" at seed {seeds}",
    numbers="Accuracy and F1 (macro) are from the test split, and means over the seeds, as is the train "
    "time, which excludes evaluation. Peak memory is the highest of the seeds while training.",
    memory_notes={
        "cuda": "CUDA reserved: what PyTorch's allocator held on the GPU.",
        "cpu_resident": "CPU resident: memory of the whole process, Python and its libraries included; "
        "not to be compared with GPU memory.",
    },
    spread="The interval is for the method's accuracy on other texts of this kind and with other seeds: what "
    "both make uncertain is in it.",
    spreads={
        "other_seeds_and_texts": "Marked “others' seeds”: fewer than three seeds show little, so they are "
        "taken to vary as those of all methods of the table do.",
        "texts_alone": "Marked “texts alone”: nothing is known of other seeds, and the interval does not "
        "count them. It is for the trained models, and too narrow for the method.",
    },
    any_seed_note="Seeds “any”: the method has no randomness, so that every seed gives the same numbers.",
    unsuccessful="Runs without success: {counts}.",
    unfinished="An unfinished run has started and not ended: it is still at work, or its process has "
    "vanished. It counts as failed.",
    still_running="**Unfinished: when this was written, {ended} of at least {planned} runs had ended.**\n\n",
    bad="Records left out, as they cannot be trusted: {records}.",
    bad_one="{path} ({reason})",
    no_success="{title}: no run has succeeded ({counts}).",
    first_error=" The first message: {error}",
    some_seeds="{title}: not every seed of the chosen configuration has succeeded ({counts}); the numbers "
    "are from those that have.",
    random_weights="These scores mean nothing, as the base weights are random; memory and time are real.",
    unknown="{title}: {column} is unknown ({reason}).",
    no_reason="the record gives no reason",
    not_alone="{title}: memory and train time leave out {count} of the {runs} chosen runs, which went on "
    "from a checkpoint or were trained packed with others.",
    none_alone="each chosen run went on from a checkpoint or was trained packed with others",
    prose=prose.ENGLISH,
    sentences=sentences.ENGLISH,
    counsel=counsel.ENGLISH,
    captions=captions.ENGLISH,
)

CHINESE = Text(
    columns={
        "method": "方法",
        "memory": "显存占用",
        "train_time": "训练时间",
        "accuracy": "准确率",
        "f1_macro": "F1分数",
        "trainable": "可训练参数",
        "seeds": "种子数",
        "interval": "95% 区间（准确率）",
        "hyperparameters": "选定的超参数",
        "runs": "运行数/失败数",
    },
    extras={
        "data": "数据",
        "model": "模型",
        "memory_kind": "显存类型",
        "status": "状态",
        "memory_bytes": "显存占用（字节）",
        "train_seconds": "训练时间（秒）",
        "joules": "能耗（焦耳）",
        "validation": "验证集分数",
        "accuracy_low": "准确率区间下限",
        "accuracy_high": "准确率区间上限",
        "interval_over": "准确率区间针对",
        "texts_low": "准确率文本区间下限",
        "texts_high": "准确率文本区间上限",
        "accuracy_sd": "准确率标准差",
        "f1_macro_low": "F1 区间下限",
        "f1_macro_high": "F1 区间上限",
        "f1_macro_sd": "F1 标准差",
        "total": "总参数",
        "weights": "基座权重",
        "run_ids": "运行编号",
    },
    memory_columns={
        "cuda": "显存占用 (GiB，CUDA 预留)",
        "cpu_resident": "显存占用 (GiB，CPU 进程常驻内存)",
    },
    paged="{memory} + {paged} 分页至内存",
    paged_column="分页至内存 (GiB)",
    paged_note="分页至内存：由 CUDA 在主机内存与 GPU 之间移动的优化器状态，不计入其前的峰值。",
    statuses={
        "success": "无验证集分数",
        "failed": "失败",
        "oom": "内存不足",
        "diverged": "发散",
        "timeout": "超时",
        "interrupted": "中断",
        "crashed": "崩溃",
        "invalid": "无效",
        "started": "未完成",
    },
    metrics={"accuracy": "准确率", "f1_macro": "F1分数"},
    heading="{data}，{model}",
    heading_without_model="{data}",
    of_content="{heading}（数据 {fingerprint}，模型 {revision}）",
    test_size="{heading}：{size} 条测试文本",
    durations=("{seconds:.3f} 秒", "{seconds:.1f} 秒", "{minutes} 分 {rest:02d} 秒", "{hours:.1f} 小时"),
    percent="{:.1f}%",
    intervals={
        "seeds_and_texts": "{:.1f}–{:.1f}%",
        "other_seeds_and_texts": "{:.1f}–{:.1f}%（借用种子）",
        "texts": "{:.1f}–{:.1f}%",
        "texts_alone": "{:.1f}–{:.1f}%（仅文本）",
    },
    any_seed="任意",
    nothing="无",
    counted="{status} {count} 次",
    comma="，",
    either=" 或 ",
    between=" 至 ",
    tried="运行 {tried} 次，失败 {failed} 次",
    empty="尚无运行：`bench sweep` 会产生运行。",
    notes="说明",
    choice="每种方法的最佳配置按验证集{metric}最高选出{at_seed}，相同时取验证集损失较低者；选择不使用测试集。",
    at_seed="（随机种子 {seeds}）",
    numbers="准确率和 F1 分数（宏平均）来自测试集，取各随机种子的平均值；训练时间同样取平均值，不含评估。"
    "显存占用是各随机种子训练阶段的最高峰值。",
    memory_notes={
        "cuda": "CUDA 预留：PyTorch 分配器在 GPU 上占有的显存。",
        "cpu_resident": "CPU 进程常驻内存：整个进程的内存，包括 Python 及其库；不能与 GPU 显存比较。",
    },
    spread="区间针对该方法在其他同类文本上、使用其他随机种子时的准确率：两种来源的不确定性均已计入。",
    spreads={
        "other_seeds_and_texts": "标有“借用种子”：不足三个种子看不出波动，因此假定其随机种子的波动与本表"
        "各方法相同。",
        "texts_alone": "标有“仅文本”：其他种子的情况未知，区间未计入种子的影响；它只针对已训练的模型，"
        "对方法本身而言过窄。",
    },
    any_seed_note="种子数“任意”：该方法没有随机性，任何种子的结果都相同。",
    unsuccessful="未成功的运行：{counts}。",
    unfinished="未完成的运行已开始而没有结束：或仍在进行，或进程已消失；计为失败。",
    still_running="**未完成：写入此表时，至少 {planned} 次运行中已有 {ended} 次结束。**\n\n",
    bad="因不可信而略去的记录：{records}。",
    bad_one="{path}（{reason}）",
    no_success="{title}：没有成功的运行（{counts}）。",
    first_error="首条信息：{error}",
    some_seeds="{title}：选定的配置并非每个种子都成功（{counts}）；数值来自成功的种子。",
    random_weights="基座权重为随机值，此处的准确率和 F1 分数没有意义；显存占用和训练时间是真实的。",
    unknown="{title}：{column}未知（{reason}）。",
    no_reason="记录未说明原因",
    not_alone="{title}：选定的 {runs} 次运行中有 {count} 次由检查点续训或与其他运行合并训练，"
    "其显存和训练时间不计入。",
    none_alone="选定的运行均由检查点续训或与其他运行合并训练",
    prose=prose.CHINESE,
    sentences=sentences.CHINESE,
    counsel=counsel.CHINESE,
    captions=captions.CHINESE,
)

LANGUAGES = {"en": ENGLISH, "zh": CHINESE}


def read_language(lang: str) -> Text:
    """The texts of a language.

    Raises:
        ConfigError: there is no such language.
    """
    if lang not in LANGUAGES:
        raise ConfigError(f"lang={lang}: must be one of {', '.join(LANGUAGES)}")
    return LANGUAGES[lang]


def format_duration(seconds: float, text: Text) -> str:
    """Seconds as people say them: 0.012 s, 12.3 s, 4 min 05 s, 2.8 h."""
    moment, short, minutes, hours = text.durations
    if round(seconds, 3) < 1:
        return moment.format(seconds=seconds)
    if round(seconds, 1) < 60:
        return short.format(seconds=seconds)
    if round(seconds) < 3600:
        return minutes.format(minutes=round(seconds) // 60, rest=round(seconds) % 60)
    return hours.format(hours=seconds / 3600)
