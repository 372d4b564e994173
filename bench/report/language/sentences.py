"""Every sentence of findings, claims and imports, in each language; figures and names come in by braces."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Sentences:
    """One language."""

    imported: str  # a heading
    imported_columns: Mapping[str, str]
    imported_note: str
    imported_sources: Mapping[str, str]  # what is special about one
    imported_bad: str
    row: str  # of a foreign table
    unknown: str
    kinds: Mapping[str, str]  # of memory, as a sentence names them
    findings: str  # a heading
    evidence: str
    cited: str
    all_of: str  # before the last of several
    random_weights: str
    accuracy: Mapping[str, str]  # by a comparison's verdict
    detectable: str
    not_compared: str
    gain: Mapping[str, str]  # of the best training over the best baseline
    contrasts: Mapping[str, Mapping[str, str]]  # of memory and time
    one_run_each: str
    other_hardware: str
    cheapest: str
    share: str
    none_succeeded: str
    claims_heading: str
    claims_rule: str
    claim_columns: tuple[str, ...]
    claims: Mapping[str, str]
    bounds: Mapping[str, str]
    bound: Mapping[str, str]
    measured: Mapping[str, str]
    verdicts: Mapping[str, str]
    reasons: Mapping[str, str]
    article_parameters: str


ENGLISH = Sentences(
    imported="Imported, not measured by bench",
    imported_columns={
        "method": "Method",
        "model": "Model",
        "data": "Data",
        "settings": "Settings",
        "memory": "Peak memory (GiB)",
        "kind": "Memory kind",
        "train_time": "Train time",
        "accuracy": "Accuracy",
        "f1_macro": "F1 (macro)",
        "trainable": "Trainable parameters",
        "source": "Source",
    },
    imported_note="Other people's numbers, as their files give them, taken under other conditions and in "
    "other ways. They have no part in any choice, interval, comparison, finding or recommendation.",
    imported_sources={
        "peft": "peft: a result of PEFT's method_comparison. Its peak is the highest reserved memory after "
        "any training step, less what was in use before; its train time holds the evaluation on the test "
        "split.",
    },
    imported_bad="Imported records left out, as they cannot be trusted: {records}.",
    row="{file}, row {row}",
    unknown="unknown",
    kinds={
        "cuda": "CUDA reserved, while training",
        "cpu_resident": "CPU resident, while training",
        "unknown": "of unknown kind",
    },
    findings="Key findings",
    evidence="Runs: ",
    cited="{title} {runs}",
    all_of=" and ",
    random_weights="The base model's weights are random ({titles}): memory, time and parameters are real, "
    "accuracy and F1 say nothing.",
    accuracy={
        "difference": "{one} is more accurate than {other}: {points:+.1f} points (95 % {low:+.1f} to "
        "{high:+.1f}) on {texts} test texts, more than the choice of texts and seeds makes.",
        "one_seed": "{one} had {points:+.1f} points of accuracy against {other} (95 % {low:+.1f} to "
        "{high:+.1f}, {texts} test texts); with one seed it is unknown whether that is the methods or the "
        "seeds.",
        "none": "{one} has the highest accuracy, but no difference from {titles} is detectable on {texts} "
        "test texts.",
    },
    detectable=" The smallest that would be detected is about {points:.1f} points.",
    not_compared="Whether {one} differs in accuracy from {titles} is unknown: they could not be compared.",
    gain={
        "difference": "Training pays: {one} is {points:.1f} points more accurate than the best baseline, "
        "{other} ({here:.1f} % against {there:.1f} %, {texts} test texts).",
        "worse": "No training beats the best baseline: {other} is {points:.1f} points more accurate than "
        "{one} ({there:.1f} % against {here:.1f} %, {texts} test texts).",
        "none": "No gain of training is detectable: {one} has {here:.1f} %, the best baseline, {other}, has "
        "{there:.1f} % ({texts} test texts).",
        "one_seed": "Whether training pays is open: {one} has {here:.1f} %, the best baseline, {other}, has "
        "{there:.1f} % ({texts} test texts), with one seed.",
    },
    contrasts={
        "memory": {
            "less": "{one} used {percent:.0f} % less peak memory than {other} ({here} against {there} GiB, "
            "{kind}).",
            "more": "{one} used {percent:.0f} % more peak memory than {other} ({here} against {there} GiB, "
            "{kind}).",
            "same": "{one} and {other} used about the same peak memory ({here} and {there} GiB, {kind}).",
            "overlap": "{one} and {other} do not clearly differ in peak memory ({here} and {there} GiB, "
            "{kind}): their runs overlap.",
        },
        "train_time": {
            "less": "{one} trained in {percent:.0f} % less time than {other} ({here} against {there}).",
            "more": "{one} took {percent:.0f} % more time to train than {other} ({here} against {there}).",
            "same": "{one} and {other} took about the same time to train ({here} and {there}).",
            "overlap": "{one} and {other} do not clearly differ in train time ({here} and {there}): their "
            "runs overlap.",
            "open": "{one} trained in {here}, {other} in {there}; with one run it is unknown how much of "
            "that is chance.",
        },
    },
    one_run_each=" One run only: how far it varies is unknown.",
    other_hardware="The train times of {one} and {other} say nothing of each other: not all their runs are "
    "known to have had the same hardware.",
    cheapest="Of {best} and those that accuracy does not tell from it ({titles}), {one} needs the least "
    "memory ({here} GiB, {kind}).",
    share="{titles}: {share:.2g} % of the weights are trained ({trainable} of {total}).",
    none_succeeded="{title}: none of its runs ({runs}) succeeded, so nothing is known of its scores.",
    claims_heading="The article's claims",
    claims_rule="A claim is reproduced if all that the measurement allows counts as such, not reproduced if "
    "none of it does, and else undecided. A measurement of memory or time allows what all pairs of seeds "
    "came to; one of accuracy, the paired 95 % interval over texts and seeds. The figures and what counts "
    "are in conf/report/article.yaml.",
    claim_columns=("Article", "Measured", "Holds?", "Why"),
    claims={
        "memory": "{one}: {says:+.0f} % peak memory against {other} ({here} against {there} GB); reproduced "
        "if {counts} %",
        "accuracy": "{one}: {says:+.1f} points of accuracy against {other} ({here:.1f} against {there:.1f} "
        "%); reproduced if {counts} points",
        "train_time": "{one}: little more train time than {other} ({here} against {there} h); reproduced if "
        "{counts} %",
        "trainable": "{one} trains {says:.2f} % of the weights ({here}); reproduced if {counts} %",
    },
    bounds={"both": "{low} to {high}", "low": "at least {low}", "high": "at most {high}"},
    bound={"memory": "{:+.0f}", "accuracy": "{:+.1f}", "train_time": "{:+.0f}", "trainable": "{:.3f}"},
    measured={
        "memory": "{one}: {percent:+.0f} % against {other} ({here} against {there} GiB, {kind})",
        "accuracy": "{one}: {points:+.1f} points against {other} (95 % {low:+.1f} to {high:+.1f}, {texts} "
        "test texts)",
        "train_time": "{one}: {percent:+.0f} % against {other} ({here} against {there})",
        "trainable": "{one}: {share:.2g} % ({trainable} of {total})",
    },
    verdicts={
        "reproduced": "reproduced",
        "not_reproduced": "not reproduced",
        "undecided": "undecided",
        "not_comparable": "not comparable",
    },
    reasons={
        "no_run": "no run of {method} has succeeded",
        "unknown": "a number is unknown",
        "kinds": "measured in other kinds of memory",
        "hardware": "the two methods are not known to have had the same hardware",
        "not_paired": "the two methods' predictions could not be compared",
        "too_few_apart": "too few test texts tell the two methods apart for an interval",
        "not_gpu_memory": "CPU resident memory is not GPU memory",
        "random_weights": "the weights are random, so that accuracy says nothing",
        "one_run": "one run of a method does not say how far its time varies",
        "one_seed": "one seed of a method does not say how far its accuracy varies",
        "model": "other model ({here}, not {there})",
        "data": "other data ({here})",
        "card": "other hardware ({here}, not {there})",
        "across": "the measurement allows both",
    },
    article_parameters="The article's 4.2M trainable parameters are what LLaMA-7B has at r=8 on its query "
    "and value projections. ChatGLM-6B has neither: its one module query_key_value has 458,752 for each "
    "rank, 3.67M at r=8.",
)

CHINESE = Sentences(
    imported="导入的结果（非 bench 测量）",
    imported_columns={
        "method": "方法",
        "model": "模型",
        "data": "数据",
        "settings": "设置",
        "memory": "显存占用 (GiB)",
        "kind": "显存类型",
        "train_time": "训练时间",
        "accuracy": "准确率",
        "f1_macro": "F1分数",
        "trainable": "可训练参数",
        "source": "来源",
    },
    imported_note="他人的数值，按其文件原样给出，测量条件和方法各不相同；"
    "不参与任何选择、区间、比较、发现或推荐。",
    imported_sources={
        "peft": "peft：PEFT method_comparison 的结果。其显存峰值为各训练步之后预留显存的最高值，"
        "减去此前已占用的部分；其训练时间包含测试集评估。",
    },
    imported_bad="因不可信而略去的导入记录：{records}。",
    row="{file} 第 {row} 行",
    unknown="未知",
    kinds={
        "cuda": "CUDA 预留，训练阶段",
        "cpu_resident": "CPU 进程常驻内存，训练阶段",
        "unknown": "类型未知",
    },
    findings="主要发现",
    evidence="运行：",
    cited="{title} {runs}",
    all_of=" 和 ",
    random_weights="基座模型的权重为随机值（{titles}）：显存、时间和参数量真实有效，准确率和 F1 "
    "分数没有意义。",
    accuracy={
        "difference": "{one} 的准确率高于 {other}：{points:+.1f} 个百分点（95% 区间 {low:+.1f} 至 "
        "{high:+.1f}，{texts} 条测试文本），超过文本和随机种子的选取所造成的波动。",
        "one_seed": "{one} 的准确率比 {other} 为 {points:+.1f} 个百分点（95% 区间 {low:+.1f} 至 {high:+.1f}，"
        "{texts} 条测试文本）；只有一个种子，无法知道差异来自方法还是种子。",
        "none": "{one} 的准确率最高，但与 {titles} 未检出差异（{texts} 条测试文本）。",
    },
    detectable="可检出的最小差异约为 {points:.1f} 个百分点。",
    not_compared="{one} 与 {titles} 的准确率是否不同未知：无法比较。",
    gain={
        "difference": "训练有收益：{one} 的准确率比最佳基线 {other} 高 {points:.1f} 个百分点（{here:.1f}% 对 "
        "{there:.1f}%，{texts} 条测试文本）。",
        "worse": "没有训练胜过最佳基线：{other} 的准确率比 {one} 高 {points:.1f} 个百分点（{there:.1f}% 对 "
        "{here:.1f}%，{texts} 条测试文本）。",
        "none": "未检出训练的收益：{one} 为 {here:.1f}%，最佳基线 {other} 为 {there:.1f}%（{texts} "
        "条测试文本）。",
        "one_seed": "训练是否有收益尚无定论：{one} 为 {here:.1f}%，最佳基线 {other} 为 {there:.1f}%（{texts} "
        "条测试文本），只有一个种子。",
    },
    contrasts={
        "memory": {
            "less": "{one} 的峰值显存比 {other} 少 {percent:.0f}%（{here} 对 {there} GiB，{kind}）。",
            "more": "{one} 的峰值显存比 {other} 多 {percent:.0f}%（{here} 对 {there} GiB，{kind}）。",
            "same": "{one} 与 {other} 的峰值显存大致相同（{here} 和 {there} GiB，{kind}）。",
            "overlap": "{one} 与 {other} 的峰值显存没有明显差异（{here} 和 {there} GiB，{kind}）："
            "各次运行相互重叠。",
        },
        "train_time": {
            "less": "{one} 的训练时间比 {other} 少 {percent:.0f}%（{here} 对 {there}）。",
            "more": "{one} 的训练时间比 {other} 多 {percent:.0f}%（{here} 对 {there}）。",
            "same": "{one} 与 {other} 的训练时间大致相同（{here} 和 {there}）。",
            "overlap": "{one} 与 {other} 的训练时间没有明显差异（{here} 和 {there}）：各次运行相互重叠。",
            "open": "{one} 训练用时 {here}，{other} 用时 {there}；只有一次运行，无法知道其中多少出于偶然。",
        },
    },
    one_run_each="只有一次运行：波动范围未知。",
    other_hardware="{one} 与 {other} 的训练时间不能相互比较：无法确认所有运行都在同样的硬件上。",
    cheapest="在 {best} 及准确率与其无法区分的方法（{titles}）中，{one} 所需显存最少（{here} GiB，{kind}）。",
    share="{titles}：训练 {share:.2g}% 的权重（{total} 中的 {trainable}）。",
    none_succeeded="{title}：{runs} 次运行均未成功，其分数未知。",
    claims_heading="原文的论断",
    claims_rule="测量结果所容许的全部数值都符合，则论断得到复现；全部不符合，则未复现；否则无定论。"
    "显存和时间的测量容许所有种子组合的结果，准确率的测量容许文本和种子上的配对 95% 区间。"
    "各数值及符合的标准见 conf/report/article.yaml。",
    claim_columns=("原文", "测量", "是否成立", "原因"),
    claims={
        "memory": "{one}：峰值显存比 {other} {says:+.0f}%（{here} 对 {there} GB）；{counts}% 为复现",
        "accuracy": "{one}：准确率比 {other} {says:+.1f} 个百分点（{here:.1f} 对 {there:.1f}%）；{counts} "
        "个百分点为复现",
        "train_time": "{one}：训练时间比 {other} 增加不多（{here} 对 {there} 小时）；{counts}% 为复现",
        "trainable": "{one} 训练 {says:.2f}% 的权重（{here}）；{counts}% 为复现",
    },
    bounds={"both": "{low} 至 {high}", "low": "不低于 {low}", "high": "不高于 {high}"},
    bound={"memory": "{:+.0f}", "accuracy": "{:+.1f}", "train_time": "{:+.0f}", "trainable": "{:.3f}"},
    measured={
        "memory": "{one}：比 {other} {percent:+.0f}%（{here} 对 {there} GiB，{kind}）",
        "accuracy": "{one}：比 {other} {points:+.1f} 个百分点（95% 区间 {low:+.1f} 至 {high:+.1f}，{texts} "
        "条测试文本）",
        "train_time": "{one}：比 {other} {percent:+.0f}%（{here} 对 {there}）",
        "trainable": "{one}：{share:.2g}%（{total} 中的 {trainable}）",
    },
    verdicts={
        "reproduced": "复现",
        "not_reproduced": "未复现",
        "undecided": "无定论",
        "not_comparable": "不可比",
    },
    reasons={
        "no_run": "{method} 没有成功的运行",
        "unknown": "有数值未知",
        "kinds": "所测内存类型不同",
        "hardware": "无法确认两种方法使用了同样的硬件",
        "not_paired": "两种方法的预测无法比较",
        "too_few_apart": "能区分两种方法的测试文本太少，无法给出区间",
        "not_gpu_memory": "CPU 进程常驻内存不是 GPU 显存",
        "random_weights": "权重为随机值，准确率没有意义",
        "one_run": "某方法只有一次运行，时间的波动未知",
        "one_seed": "某方法只有一个种子，准确率的波动未知",
        "model": "模型不同（{here}，不是 {there}）",
        "data": "数据不同（{here}）",
        "card": "硬件不同（{here}，不是 {there}）",
        "across": "测量结果两者皆容许",
    },
    article_parameters="原文的 4.2M 可训练参数是 LLaMA-7B 在 r=8 时 query 和 value 投影上的数量。ChatGLM-6B "
    "没有这两个模块：其单一模块 query_key_value 每个秩有 458,752 个参数，r=8 时为 3.67M。",
)
