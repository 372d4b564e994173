"""How the command line is taught: examples below a command's --help, near names, completion by the shell."""

import argparse
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

from bench.spelling import guess

# Below the help of each command: what to type, and after two spaces or more what it does.
EXAMPLES = {
    "": """\
bench run method=qlora lora.r=16 seed=1          train one configuration
bench run --help | --cfg job | --multirun        the same as `python -m bench.run`, a Hydra app
bench sweep experiment=quickstart                full fine-tuning against LoRA and QLoRA, in minutes
bench sweep method=lora,qlora lora.r=8,16        sweep what you like; the same command again resumes
bench run data=files data.train=my.csv           your own texts, columns text and label
bench plan experiment=rtx4090 plan.card=rtx4090  what a sweep would take of a card: memory, fit, hours
bench report                                     one page to look at, in English and Chinese
bench recommend --vram 12 --max-hours 3          which method to take, from your own results
bench export best:lora winner                    take the winner out, for PEFT, transformers, ONNX or bench
bench classify best:lora "a text"                and use it
bench doctor                                     what this machine can run
bench COMMAND --help                             the options of a command, with examples
""",
    "sweep": """\
bench sweep                                      the quickstart, in minutes
bench sweep method=lora,qlora lora.r=8,16        a grid of your own; the same command again resumes
bench sweep experiment=quickstart sweep=variants
                                                 one configuration of every method
bench sweep experiment=quickstart sweep.strategy=halving
                                                 half the training steps
bench sweep experiment=quickstart sweep.hours=5m
                                                 as far as five minutes go, the same for each method
bench sweep experiment=quickstart --retry failed,oom
                                                 train again only what ended so
bench sweep experiment=quickstart devices=cpu*2  two runs at once; devices=0,1 for two GPUs
""",
    "plan": """\
bench plan                                       the quickstart on this machine
bench plan experiment=article plan.card=rtx4090  memory, fit and hours on a card that is not here
bench plan method=full,lora,qlora model=qwen3-8b model.weights=random plan.card=rtx3090
bench plan experiment=rtx4090 plan.card=rtx4090 --json
                                                 for scripts
""",
    "table": """\
bench table                                      results/quickstart, or the only folder in results/
bench table --results results/mine --lang zh     another folder, in Chinese
bench table report.price_per_hour=0.5 report.price_per_kwh=0.3
                                                 with what a training costs
bench table report.equivalence_points=0.5        methods that differ by less than half a point are equal
bench table --latex                              also table.tex, for a paper
""",
    "report": """\
bench report                                     report.html and figures/ of results/quickstart
bench report --results results/mine --lang zh    another folder, opening in Chinese
""",
    "export": """\
bench export best:lora winner                    the table's choice of a method
bench export e35d791c503e one-run                one run by its id, as runs.csv has it
bench export best:lora all --seeds               all its seeds on one base, whose probabilities are averaged
bench export best:lora winner-onnx --format onnx
                                                 for onnxruntime on a CPU; --format onnx-int8: smaller, faster
""",
    "merge": """\
bench merge best:lora merged                     one model without an adapter
bench merge best:qlora merged-full --into full --force
                                                 into the weights as they were before 4 bits
""",
    "classify": """\
bench classify best:lora "Shares fall again"     texts as arguments, or lines on standard input
bench classify best:lora --file my.csv --out found.csv
bench classify best:lora --file my.csv --min-confidence 0.8
                                                 no label where it is less sure
bench classify best:lora --file my.csv --min-accuracy 0.95
                                                 no label where needed for 95 % right answers
""",
    "latency": "bench latency best:lora --file my.csv           with texts of your own\n",
    "generate": 'bench generate best:lora "Shares fall again"    what the model writes after its prompt\n',
    "dashboard": """\
bench dashboard                                  create or update it on W&B; offline write dashboard.json
bench dashboard track.mode=online                an error where W&B cannot be reached
bench dashboard --offline                        wandb's own view of offline runs, in this terminal
""",
    "recommend": """\
bench recommend --vram 12                        the best of what fits 12 GiB
bench recommend --vram 24 --max-hours 3 --min-accuracy 0.9
bench recommend --card rtx4090                   for a card that you do not have: memory is predicted
bench recommend --labels 200 --label-cost 0.1 --results results/curve
                                                 with so many labels, and whether to label more
""",
    "audit": """\
bench audit                                      by all methods that have a whole cross-validation
bench audit lora --results results/mine          by one method's folds
""",
    "status": "bench status --results results/mine              how many runs came to what\n",
    "verify": "bench verify --results results/mine              exit code 1 if any record is bad\n",
    "sync": "bench sync --probe-seconds 10                    wait longer for a slow server\n",
    "serve": """\
bench serve winner --port 8000                   on this machine alone, unless --host
bench serve headlines news                       two adapters on one base, a task each
""",
    "doctor": "bench doctor                                     exit code 1 if anything does not work\n",
    "import peft": "bench import peft method_comparison/results      then `bench table` shows them\n",
    "import csv": "bench import csv others.csv                      then `bench table` shows them\n",
}
SWEEP_FLAGS = ("--retry", "--fail-fast")
_HYDRA_COMMANDS = ("run", "sweep", "plan")


class Parser(argparse.ArgumentParser):
    """argparse's, with examples in its help and near names in its errors; subcommands get the same."""

    def __init__(self, *, prog: str, **settings: Any) -> None:
        examples = EXAMPLES.get(prog.partition(" ")[2].split(" [")[0], "")
        super().__init__(
            prog=prog,
            epilog=f"examples:\n{examples}" if examples else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **settings,
        )
        self._is_mixing = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Take options between a command's arguments too, which argparse by itself does not."""
        is_list = any(action.nargs == "*" for action in self._get_positional_actions())
        if self._is_mixing or not is_list:
            return super().parse_known_args(args, namespace)
        self._is_mixing = True  # as argparse comes back here
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._is_mixing = False

    def error(self, message: str) -> NoReturn:
        """Exit with code 2 after the message and what may have been meant."""
        if match := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
            message += guess(match[1], re.findall(r"'([^']+)'", match[2]))
        elif match := re.search(r"unrecognized arguments: (-[^ =]+)", message):
            message += guess(match[1], self.list_options())
        super().error(message)

    def list_commands(self) -> Iterator[tuple[str, "Parser"]]:
        """Yield every command with its parser."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                for name, parser in action.choices.items():
                    inner = [(f"{name} {one}", two) for one, two in parser.list_commands()]
                    yield from inner or [(name, parser)]

    def list_options(self) -> Iterator[str]:
        """Yield every option of the parser and of its commands."""
        for action in self._actions:
            yield from action.option_strings
            if isinstance(action, argparse._SubParsersAction):
                for parser in action.choices.values():
                    yield from parser.list_options()


def complete(arguments: list[str], parser: Parser) -> list[str] | None:
    """Answer a shell's TAB: commands and options here, overrides by Hydra.

    Prints the former and returns None; returns the arguments to call Hydra with for the latter, with the
    command taken out of the line that the shell has put into COMP_LINE.
    """
    line = os.environ.get("COMP_LINE", "")
    words = line.split()
    command = words[1] if len(words) > 1 and (len(words) > 2 or line[-1:] == " ") else ""
    if "query=" not in " ".join(arguments) or command in _HYDRA_COMMANDS:
        os.environ["COMP_LINE"] = line.replace(f" {command}", "", 1) if command else line
        return arguments
    [commands] = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    known = commands.choices[command].list_options() if command in commands.choices else commands.choices
    last = "" if line[-1:] == " " else words[-1] if words else ""
    print(*(name for name in known if name.startswith(last)))
    return None


def require_flags(flags: Iterable[str], parser: Parser) -> None:
    """Exit with one message at an option that is nearly a sweep's; Hydra judges the others."""
    for flag in flags:
        name = flag.partition("=")[0]
        if name.startswith("--") and name not in SWEEP_FLAGS and guess(name, SWEEP_FLAGS):
            parser.error(f"unrecognized arguments: {name}")
