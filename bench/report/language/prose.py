"""Every sentence of the sections below the tables, in each language; figures and names come in by braces."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Prose:
    """One language."""

    comparisons: str
    comparison: str  # a sentence: two methods, the difference, the verdict
    points: str
    points_between: str  # with an interval
    verdicts: Mapping[str, str]
    few_told_apart: str
    further: str  # comparisons that are in comparisons.csv alone
    left_out: str
    how_compared: str
    detectable: str
    budget: str
    how_drawn: str
    budget_columns: Mapping[str, str]
    common: str  # marks the number of configurations that every method has
    at_least: str
    pivot: str
    how_pivoted: str
    pivot_method: str
    pivot_corner: str
    cost: str
    how_priced: str
    how_predicted: str
    priced: Mapping[str, str]
    health: str
    leaked: tuple[str, str]  # none, some
    conflicting: tuple[str, str]
    imbalance: str
    truncated: str
    semicolon: str
    latency: str  # a heading
    latency_columns: tuple[str, ...]
    latency_forms: Mapping[str, str]  # by bench's names of them
    how_latency: str


_FORMS = {  # as bench/winner/latency.py names them
    "base + adapter": "基座 + 适配器",
    "nf4 base + adapter": "nf4 基座 + 适配器",
    "fp4 base + adapter": "fp4 基座 + 适配器",
    "int8 base + adapter": "int8 基座 + 适配器",
    "merged": "已合并",
    "merged, quantised to nf4": "已合并，再量化为 nf4",
    "whole model": "完整模型",
    "quantised to nf4": "量化为 nf4",
}

ENGLISH = Prose(
    comparisons="Comparisons",
    comparison="{one} vs {other}: {points}, {verdict}.",
    points="{estimate} points",
    points_between="{estimate} points (95 % {low} to {high})",
    verdicts={
        "difference": "a difference at n={rows}",
        "one_seed": "a difference at n={rows} between these trained models; one seed says no more",
        "none": "no detectable difference at n={rows}",
    },
    few_told_apart=": {count} texts tell them apart, too few for any test",
    further="{count} further comparisons are in comparisons.csv; here are those with the method that is best "
    "on validation.",
    left_out="{title} is not compared ({reason}).",
    how_compared="Points are of test accuracy, means over the seeds, and n is the number of test texts. The "
    "interval is over texts and seeds, and so is the test: a difference is one that other texts and other "
    "seeds would show as well, at 5 % by Holm over all comparisons ({count}). With one seed both are over "
    "texts alone. F1 (macro) and p values are in comparisons.csv.",
    detectable="With these texts and seeds, a true difference is found in four of five such studies if it is "
    "about {points} points or more.",
    budget="Budget",
    how_drawn="What the choice had to choose from. k: the validation {metric} to expect of the best of k "
    "configurations drawn from those tried, so that many draws are not taken for a better method; the common "
    "k is the most that every trained method can be compared at.",
    budget_columns={
        "method": "Method",
        "configurations": "Configurations tried",
        "failed": "Failed",
        "stopped": "Stopped early",
        "seconds": "Time of all runs",
        "draws": "k={draws}",
        "all": "best of all",
    },
    common="{column} (common)",
    at_least="≥ {duration}",
    pivot="Validation {metric} by r and alpha",
    how_pivoted="The best over all other hyperparameters that were tried.",
    pivot_method="{title}:",
    pivot_corner="r \\ alpha",
    cost="Cost of one training",
    how_predicted="Peak memory was predicted before the runs, off by {median:.1%} at the median and "
    "{worst:.1%} at worst ({runs} runs on CUDA).",
    how_priced="Cost: {prices}, over the train time alone; the currency is that of the prices.",
    priced={"price_per_hour": "{price} an hour", "price_per_kwh": "{price} a kWh of the GPU"},
    health="Data of {data}: {parts}.",
    leaked=(
        "no text is in two splits",
        "{count} rows of validation and test have a text that is in another split too, so that their scores "
        "say little about new texts",
    ),
    conflicting=(
        "no text has two labels",
        "{count} rows have a text that has another label elsewhere, so that one of the two is wrong",
    ),
    imbalance="the most frequent label has {ratio:.1f} times the rows of the rarest (train)",
    truncated="{share:.1f} % of train's texts were cut",
    semicolon="; ",
    latency="Latency",
    latency_columns=("Form", "Batch", "ms per text, p50", "p95", "Texts per second"),
    latency_forms={form: form for form in _FORMS},
    how_latency="From text to probabilities, on {machine} with {threads} threads, over {texts} texts: at "
    "batch 1, and at the batch size that was the fastest.",
)

CHINESE = Prose(
    comparisons="方法比较",
    comparison="{one} 对比 {other}：{points}，{verdict}。",
    points="{estimate} 个百分点",
    points_between="{estimate} 个百分点（95% 区间 {low} 至 {high}）",
    verdicts={
        "difference": "n={rows} 时存在差异",
        "one_seed": "n={rows} 时这两个训练好的模型存在差异；单个种子无法说明方法本身",
        "none": "n={rows} 时未检出差异",
    },
    few_told_apart="：仅 {count} 条文本能区分二者，任何检验都不够",
    further="另有 {count} 组比较见 comparisons.csv；此处列出与验证集上最佳方法的比较。",
    left_out="{title} 未参与比较（{reason}）。",
    how_compared="百分点指测试集准确率之差，取各随机种子的平均值；n 为测试文本数。区间和检验都同时针对文本与"
    "随机种子：差异须在其他文本和其他种子上同样成立，对全部 {count} 组比较作 Holm 校正，水平 5%。只有一个种子"
    "时，两者仅针对文本。F1 分数和 p 值见 comparisons.csv。",
    detectable="以这些文本和种子，真实差异约达 {points} 个百分点时，五次此类研究中有四次能检出。",
    budget="搜索预算",
    how_drawn="选择时有多少可选。k：从已尝试的配置中抽取 k 个，其最佳验证集{metric}的期望值，"
    "以免把抽取次数多误认为方法更好；“共有”的 k 是所有训练方法都能比较的最大值。",
    budget_columns={
        "method": "方法",
        "configurations": "已尝试的配置数",
        "failed": "失败",
        "stopped": "提前停止",
        "seconds": "全部运行用时",
        "draws": "k={draws}",
        "all": "全部中的最佳",
    },
    common="{column}（共有）",
    at_least="≥ {duration}",
    pivot="各 r 与 alpha 的验证集{metric}",
    how_pivoted="取其他已尝试超参数中的最佳值。",
    pivot_method="{title}：",
    pivot_corner="r \\ alpha",
    cost="单次训练成本",
    how_predicted="显存峰值在运行前预测：误差中位数 {median:.1%}，最大 {worst:.1%}（{runs} 次 CUDA 运行）。",
    how_priced="成本：{prices}，只计训练时间；货币单位与价格相同。",
    priced={"price_per_hour": "每小时 {price}", "price_per_kwh": "GPU 每千瓦时 {price}"},
    health="{data} 的数据：{parts}。",
    leaked=(
        "没有文本同时出现在两个划分中",
        "验证集和测试集有 {count} 行的文本也出现在其他划分中，其分数难以说明新文本上的表现",
    ),
    conflicting=("没有文本带有两种标签", "{count} 行的文本在别处带有另一种标签，两者必有一错"),
    imbalance="最常见标签的行数是最罕见标签的 {ratio:.1f} 倍（训练集）",
    truncated="训练集有 {share:.1f}% 的文本被截断",
    semicolon="；",
    latency="推理延迟",
    latency_columns=("形式", "批大小", "每条文本毫秒数 p50", "p95", "每秒文本数"),
    latency_forms=_FORMS,
    how_latency="从文本到概率，{machine}，{threads} 线程，{texts} 条文本：批大小为 1，以及最快的批大小。",
)
