"""Every sentence of `bench recommend`, in each language; figures and names come in by braces."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Counsel:
    """One language."""

    rejections: Mapping[str, str]  # why a method is not recommended
    advice: Mapping[str, str]
    imports_left_out: str
    case_columns: tuple[str, ...]
    cases: Mapping[str, str]  # of the article's recommendation table
    answers: Mapping[str, str]


ENGLISH = Counsel(
    rejections={
        "none_succeeded": "no run has succeeded (most: {status})",
        "unknown_memory": "its peak memory is unknown",
        "memory": "needs {needs} GiB, more than {limit}",
        "unknown_time": "its train time is unknown",
        "time": "takes {needs} to train, more than {limit}",
        "unknown_accuracy": "its test accuracy is unknown",
        "random_weights": "the weights are random, so that its accuracy is unknown",
        "accuracy": "accuracy {has:.1f} %, less than {limit:.1f} %",
    },
    advice={
        "budget": "Limits: {limits}; memory is compared with what was measured ({kind}).",
        "resident": "That is the RAM of the whole process: these runs used no GPU and say nothing of its "
        "memory.",
        "at_most_memory": "at most {gib:g} GiB",
        "at_most_time": "at most {duration} of training",
        "at_least": "accuracy at least {percent:g} %",
        "nothing_fits": "Nothing that was measured fits.",
        "nearest": "Nearest: {title} ({reason}).",
        "take": "Take {title}: {numbers}.",
        "take_with": "Take {title} with {settings}: {numbers}.",
        "accuracy": "accuracy {percent:.1f} %",
        "only_one": "Of the methods that were trained, only {title} fits.",
        "random": "The weights are random, so that accuracy says nothing; {title} needs the least memory.",
        "same": "Accuracy does not tell {titles} from {best}; of these, {title} needs the least memory.",
        "more_accurate": "{title} is more accurate than the others that fit ({titles}).",
        "not_compared": "{title} has the highest accuracy of what fits; whether that is chance is unknown, "
        "as not all ({titles}) could be compared.",
        "one_seed": "{title} has one seed: how much of its accuracy is chance is unknown.",
        "floor_unsure": "Its 95 % interval begins at {low:.1f} %, below the {limit:g} % that are asked for.",
        "baseline": "First try {baseline} ({numbers}): it trains no network, and {title} is not shown to be "
        "more accurate.",
        "chosen": "take this",
        "fits": "fits",
        "verdict": "Verdict",
    },
    imports_left_out="{count} imported results are left out: bench has not measured them.",
    case_columns=("For", "The article says", "These results say"),
    cases={
        "above": "more than {gb:g} GB",
        "below": "less than {gb:g} GB",
        "quality": "highest quality",
        "speed": "quick prototype",
    },
    answers={
        "take": "{title} ({numbers})",
        "same": "; accuracy does not tell it from {titles}",
        "not_compared": "; not all methods could be compared",
        "no_gpu": "unknown: no GPU memory was measured",
        "nothing_fits": "nothing that was measured fits",
        "random": "unknown: the weights are random",
        "unknown": "unknown",
    },
)

CHINESE = Counsel(
    rejections={
        "none_succeeded": "没有成功的运行（多为{status}）",
        "unknown_memory": "峰值显存未知",
        "memory": "需要 {needs} GiB，超过 {limit}",
        "unknown_time": "训练时间未知",
        "time": "训练需 {needs}，超过 {limit}",
        "unknown_accuracy": "测试准确率未知",
        "random_weights": "权重为随机值，准确率未知",
        "accuracy": "准确率 {has:.1f}%，低于 {limit:.1f}%",
    },
    advice={
        "budget": "限制：{limits}；与实测内存（{kind}）比较。",
        "resident": "这是整个进程的内存：这些运行没有使用 GPU，不能说明显存占用。",
        "at_most_memory": "至多 {gib:g} GiB",
        "at_most_time": "训练至多 {duration}",
        "at_least": "准确率至少 {percent:g}%",
        "nothing_fits": "所测结果均不符合。",
        "nearest": "最接近的是 {title}（{reason}）。",
        "take": "采用 {title}：{numbers}。",
        "take_with": "采用 {title}，{settings}：{numbers}。",
        "accuracy": "准确率 {percent:.1f}%",
        "only_one": "在训练过的方法中，只有 {title} 符合。",
        "random": "权重为随机值，准确率没有意义；{title} 所需显存最少。",
        "same": "准确率无法将 {titles} 与 {best} 区分；其中 {title} 所需显存最少。",
        "more_accurate": "{title} 的准确率高于其他符合的方法（{titles}）。",
        "not_compared": "{title} 在符合的方法中准确率最高；但并非都能比较（{titles}），无法知道是否出于偶然。"
        "",
        "one_seed": "{title} 只有一个种子：无法知道其准确率有多少出于偶然。",
        "floor_unsure": "其 95% 区间的下限为 {low:.1f}%，低于要求的 {limit:g}%。",
        "baseline": "先试 {baseline}（{numbers}）：它不训练网络，而未显示 {title} 更准确。",
        "chosen": "采用",
        "fits": "符合",
        "verdict": "结论",
    },
    imports_left_out="略去 {count} 条导入的结果：非 bench 测量。",
    case_columns=("情形", "原文建议", "这些结果"),
    cases={
        "above": "显存大于 {gb:g} GB",
        "below": "显存小于 {gb:g} GB",
        "quality": "追求最高质量",
        "speed": "快速原型",
    },
    answers={
        "take": "{title}（{numbers}）",
        "same": "；准确率无法与 {titles} 区分",
        "not_compared": "；并非所有方法都能比较",
        "no_gpu": "未知：没有测量 GPU 显存",
        "nothing_fits": "所测结果均不符合",
        "random": "未知：权重为随机值",
        "unknown": "未知",
    },
)
