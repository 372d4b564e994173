"""Every word of report.html and its figures that the tables do not have, in each language."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Captions:
    """One language."""

    name: str  # of the language, in itself
    title: str
    lead: str
    skip: str  # for who moves by keyboard
    contents: str
    sections: Mapping[str, str]  # headings that the tables do not have
    figures: Mapping[str, tuple[str, str]]  # kind -> title, and how it is to be read
    of_method: str  # a figure's title, of one method or of one hyperparameter
    numbers: str  # opens the table below a figure
    axes: Mapping[str, str]  # a figure's quantities, in legends, tooltips and tables
    phases: Mapping[str, str]
    at_edge: str  # a method that a plot has no place for, with its accuracy or its status
    thinned: str
    fewer_labels: str
    unread: str  # a run whose file cannot be read
    nothing_predicted: str
    apart: str  # heading of the texts that two methods differ in
    how_apart: str
    only_right: str
    further: str
    text_columns: Mapping[str, str]
    texts_unread: str
    article_columns: Mapping[str, str]
    how_article: str
    article: str
    measured: str
    run_columns: Mapping[str, str]
    find: str
    all_statuses: str
    all_methods: str
    success: str
    counted: str  # {shown} and {all} are filled in by the page's script
    sort: str
    none_failed: str
    failure_columns: Mapping[str, str]
    log: str
    bad_records: str
    how_provenance: str
    provenance_columns: tuple[str, str]
    of_runs: str


ENGLISH = Captions(
    name="English",
    title="Fine-tuning report",
    lead="{runs} runs, {succeeded} of them successful. Everything here is made from the records of the runs "
    "alone; nothing is loaded from elsewhere.",
    skip="Skip to the findings",
    contents="Contents",
    sections={
        "methods": "Methods compared",
        "search": "What the search found",
        "training": "How the training went",
        "answers": "Where the methods err",
        "figures": "Figures",
        "runs": "All runs",
        "failures": "Failures",
        "provenance": "Provenance",
    },
    figures={
        "pareto": (
            "Peak memory against accuracy",
            "Up and to the left is better. The bar is the 95 % interval of the accuracy, the mark's size the "
            "train time; the dashed line joins the methods that no other beats in both. Marks at the edge "
            "lie outside the axes or have no numbers, as their label says.",
        ),
        "heatmap": (
            "r against alpha",
            "Validation score of the best run at each r and alpha, for each learning rate; darker is better.",
        ),
        "effect": (
            "Effect of one hyperparameter",
            "Each mark is a configuration's validation score at the seed of the choice; the line joins the "
            "means over all other hyperparameters.",
        ),
        "loss": (
            "Training loss",
            "Of the chosen configuration of each method; a line for each seed.",
        ),
        "validation": (
            "Validation accuracy while training",
            "Of the chosen configuration of each method; a line for each seed.",
        ),
        "confusion": (
            "Confusion matrix",
            "Test texts by true label (row) and prediction (column), of the chosen run that is best on "
            "validation; darker is a larger share of the row.",
        ),
        "f1": (
            "F1 of each label",
            "On the test texts, of each method's chosen run that is best on validation.",
        ),
        "time": (
            "Time by phase",
            "Mean over the chosen runs that were measured alone.",
        ),
        "memory": (
            "Peak memory by phase",
            "The highest of the chosen runs that were measured alone. Baseline: what the process held before "
            "the run.",
        ),
        "predicted": (
            "Predicted against measured peak memory",
            "A mark for each run; on the dashed line the prediction was right, above it too high.",
        ),
    },
    of_method="{title}: {name}",
    numbers="The numbers",
    axes={
        "method": "Method",
        "memory": "Peak memory (GiB)",
        "accuracy": "Accuracy (%)",
        "interval": "95 % interval",
        "train_time": "Train time",
        "r": "r",
        "alpha": "alpha",
        "lr": "lr",
        "score": "Validation {metric} (%)",
        "best": "best",
        "mean": "mean",
        "worst": "worst",
        "runs": "runs",
        "step": "Step",
        "loss": "Loss",
        "validation": "Validation accuracy (%)",
        "run": "Run",
        "seed": "Seed",
        "first": "first",
        "last": "last",
        "label": "Label",
        "prediction": "Prediction",
        "texts": "Texts",
        "share": "Share of the label (%)",
        "f1": "F1 (%)",
        "phase": "Phase",
        "seconds": "Seconds",
        "predicted": "Predicted (GiB)",
        "measured": "Measured (GiB)",
        "error": "Error",
    },
    phases={"load": "load", "train": "train", "eval": "evaluate", "baseline": "baseline"},
    at_edge="{title}: {number}",
    thinned="Of {step} logged steps one is drawn; history.jsonl of each run has all.",
    fewer_labels="Of {all} labels, the {shown} with the most errors are drawn.",
    unread="{title}: {reason}.",
    nothing_predicted="No run has both a prediction and a measurement that can be held against it{reason}.",
    apart="Texts that two methods answer differently",
    how_apart="Test texts that the one's run has right and the other's has wrong, of the runs of the "
    "confusion matrices. By chance alone some are always told apart: whether that shows a difference is said "
    "under {comparisons}.",
    only_right="{one} right, {other} wrong: {count}",
    further="{count} further texts are in the runs' predictions.csv.",
    text_columns={"id": "id", "text": "Text", "label": "Label", "other": "{other} said"},
    texts_unread="The texts themselves cannot be shown: {reason}.",
    article_columns={
        "method": "Method",
        "memory": "Peak memory",
        "train_time": "Train time",
        "accuracy": "Accuracy",
        "f1_macro": "F1 (macro)",
        "trainable": "Trainable parameters",
    },
    how_article="The article's table (ChatGLM-6B on one RTX 4090, memory in GB) beside these results, where "
    "each method has a success (memory in GiB, of the kind that its table above says). Whether the two can "
    "be compared is said above.",
    article="article",
    measured="here",
    run_columns={
        "run_id": "Run",
        "status": "Status",
        "method": "Method",
        "accuracy": "Accuracy (%)",
        "f1_macro": "F1 (%)",
        "memory": "Peak (GiB)",
        "train_time": "Train (s)",
        "validation": "Validation (%)",
        "r": "r",
        "alpha": "alpha",
        "dropout": "dropout",
        "lr": "lr",
        "seed": "Seed",
        "data": "Data",
        "model": "Model",
    },
    find="Find",
    all_statuses="every status",
    all_methods="every method",
    success="success",
    counted="{shown} of {all} runs",
    sort="A column's heading sorts by it. Accuracy and F1 (macro) are of the test split, validation is the "
    "accuracy there; – is unknown or does not "
    "count for the method.",
    none_failed="Every run succeeded.",
    failure_columns={
        "run_id": "Run",
        "method": "Method",
        "status": "Status",
        "phase": "Phase",
        "type": "Error",
        "message": "Message",
    },
    log="log",
    bad_records="Records that cannot be trusted",
    how_provenance="What the runs say of where they come from; the names are those of the records. Where "
    "runs differ, each value has its number of runs.",
    provenance_columns=("Name", "Value"),
    of_runs="{value} ({count} runs)",
)

CHINESE = Captions(
    name="中文",
    title="微调对比报告",
    lead="共 {runs} 次运行，其中 {succeeded} 次成功。本页全部内容仅由运行记录生成，不从别处加载任何东西。",
    skip="跳到主要发现",
    contents="目录",
    sections={
        "methods": "方法对比",
        "search": "搜索结果",
        "training": "训练过程",
        "answers": "各方法错在哪里",
        "figures": "图",
        "runs": "全部运行",
        "failures": "失败的运行",
        "provenance": "来源",
    },
    figures={
        "pareto": (
            "显存占用与准确率",
            "越靠左上越好。竖线为准确率的 95% 区间，标记大小表示训练时间；虚线连接两方面都没有被其他方法同时"
            "超过的方法。边缘的标记超出坐标范围或没有数值，见其标注。",
        ),
        "heatmap": ("r 与 alpha", "各学习率下每组 r 与 alpha 的最佳验证集分数；颜色越深越好。"),
        "effect": (
            "单个超参数的影响",
            "每个标记是一个配置在选择所用种子上的验证集分数；折线连接对其他超参数取的平均值。",
        ),
        "loss": ("训练损失", "每种方法选定的配置，每个种子一条线。"),
        "validation": ("训练中的验证集准确率", "每种方法选定的配置，每个种子一条线。"),
        "confusion": (
            "混淆矩阵",
            "测试文本按真实标签（行）和预测（列）计数，取选定运行中验证集上最佳的一次；颜色越深，占该行的"
            "比例越大。",
        ),
        "f1": ("各标签的 F1", "测试文本上，取每种方法选定运行中验证集上最佳的一次。"),
        "time": ("各阶段用时", "单独测量的选定运行的平均值。"),
        "memory": (
            "各阶段显存峰值",
            "单独测量的选定运行中的最高值。基线：运行开始前进程已占用的部分。",
        ),
        "predicted": (
            "预测与实测的显存峰值",
            "每个标记是一次运行；在虚线上则预测准确，在其上方则预测偏高。",
        ),
    },
    of_method="{title}：{name}",
    numbers="数值",
    axes={
        "method": "方法",
        "memory": "显存占用 (GiB)",
        "accuracy": "准确率 (%)",
        "interval": "95% 区间",
        "train_time": "训练时间",
        "r": "r",
        "alpha": "alpha",
        "lr": "lr",
        "score": "验证集{metric} (%)",
        "best": "最佳",
        "mean": "平均",
        "worst": "最差",
        "runs": "运行数",
        "step": "步",
        "loss": "损失",
        "validation": "验证集准确率 (%)",
        "run": "运行",
        "seed": "种子",
        "first": "最初",
        "last": "最后",
        "label": "标签",
        "prediction": "预测",
        "texts": "文本数",
        "share": "占该标签的比例 (%)",
        "f1": "F1 (%)",
        "phase": "阶段",
        "seconds": "秒",
        "predicted": "预测 (GiB)",
        "measured": "实测 (GiB)",
        "error": "误差",
    },
    phases={"load": "加载", "train": "训练", "eval": "评估", "baseline": "基线"},
    at_edge="{title}：{number}",
    thinned="每 {step} 个记录步画一个；各运行的 history.jsonl 有全部数据。",
    fewer_labels="共 {all} 个标签，此处画出错误最多的 {shown} 个。",
    unread="{title}：{reason}。",
    nothing_predicted="没有运行同时具有可相互对照的预测值和实测值{reason}。",
    apart="两种方法答案不同的文本",
    how_apart="一种方法的运行答对而另一种答错的测试文本，所用运行与混淆矩阵相同。仅凭偶然总会有一些文本"
    "答案不同；这是否说明存在差异，见“{comparisons}”。",
    only_right="{one} 正确、{other} 错误：{count} 条",
    further="另有 {count} 条文本见各运行的 predictions.csv。",
    text_columns={"id": "编号", "text": "文本", "label": "标签", "other": "{other} 的答案"},
    texts_unread="无法显示文本本身：{reason}。",
    article_columns={
        "method": "方法",
        "memory": "显存占用",
        "train_time": "训练时间",
        "accuracy": "准确率",
        "f1_macro": "F1分数",
        "trainable": "可训练参数",
    },
    how_article="原文的表（ChatGLM-6B，单张 RTX 4090，显存以 GB 计）与此处结果并列，仅列有成功运行的方法"
    "（显存以 GiB 计，类型见上方的表）。两者能否比较，见上文。",
    article="原文",
    measured="此处",
    run_columns={
        "run_id": "运行",
        "status": "状态",
        "method": "方法",
        "accuracy": "准确率 (%)",
        "f1_macro": "F1 (%)",
        "memory": "峰值 (GiB)",
        "train_time": "训练 (秒)",
        "validation": "验证集 (%)",
        "r": "r",
        "alpha": "alpha",
        "dropout": "dropout",
        "lr": "lr",
        "seed": "种子",
        "data": "数据",
        "model": "模型",
    },
    find="查找",
    all_statuses="全部状态",
    all_methods="全部方法",
    success="成功",
    counted="显示 {shown} / {all} 次运行",
    sort="点击列标题按该列排序。准确率和 F1（宏平均）来自测试集，“验证集”为验证集准确率；"
    "– 表示未知或对该方法无意义。",
    none_failed="所有运行均成功。",
    failure_columns={
        "run_id": "运行",
        "method": "方法",
        "status": "状态",
        "phase": "阶段",
        "type": "错误",
        "message": "信息",
    },
    log="日志",
    bad_records="不可信的记录",
    how_provenance="各运行记录中的来源信息，名称与记录一致。各运行不同时，每个值后为运行数。",
    provenance_columns=("名称", "值"),
    of_runs="{value}（{count} 次运行）",
)
