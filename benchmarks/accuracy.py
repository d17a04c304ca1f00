"""Accuracy of INT8 quantization: every method of ours and `auto` beside other tools, on the same samples, in one run.

    python benchmarks/accuracy.py                                         # the packaged demo network
    python benchmarks/accuracy.py --tasks FILE.py NAME NAME=100 ...       # own tasks, =N: so many calibration samples
                                  [--tpu-mlir BIN] [--nncf PYTHON] [--aimet PYTHON]
                                  [--only TOOL[/SETTING] ...] [--from RESULTS.json] [--json FILE] [--markdown FILE]

FILE.py is a Python file whose `TASKS` maps names to objects with the few attributes and methods of `Task` in
benchmarks/accuracy_tasks.py: a model, calibration samples, test samples, labels and a score. All tools get the same
calibration samples, in the same order, and none sees a test sample before it is done.

onnxruntime.quantization is always measured, the others where they are named: BIN is the folder of TPU-MLIR's commands,
with its python beside them; PYTHON is the python of an environment with `nncf` and onnxruntime, or with `aimet-onnx`.
Each runs as a process of its own (benchmarks/quantizers/), and one that fails gives a row saying why.

Printed are the share of answers that are the float network's, the ratio of signal to noise of the outputs over all test
samples, the score and its change from float, with standard errors; and time and memory of the quantization (single
runs: compare within a run on a quiet machine). What computes: ours the integer reference, bit for bit as the chip;
TPU-MLIR its interpreter of the quantized network, in integers too; onnxruntime and NNCF onnxruntime; AIMET its
simulation in floats. `--from` takes over the rows of an earlier run, so that only some need to be measured again.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from accuracy_figures import Answers, answers, compare
from accuracy_table import Measured, Results, Row, headline, line, markdown, read_results
from accuracy_tasks import DEMO, Array, Feed, Task, read_tasks
from quantizers.job import save_samples

from tpu_deploy.calibration.thresholds import METHODS

QUANTIZERS = Path(__file__).parent / "quantizers"


@dataclass(frozen=True)
class Tool:
    """Something that quantizes: its name, the interpreter that has it, our script for it, and the script's settings."""

    name: str
    python: Path | None
    script: str
    settings: tuple[str, ...]


def tools(given: argparse.Namespace) -> list[Tool]:
    """All tools; those that are not there have no interpreter."""
    own = Path(sys.executable)
    commands: Path | None = given.tpu_mlir
    return [
        Tool("tpu_deploy", own, "with_tpu_deploy.py", (*METHODS, "symmetric ranges", "auto")),
        Tool(
            "TPU-MLIR",
            commands and commands / "python",
            "with_tpu_mlir.py",
            ("kl (default)", "max", "mse", "percentile9999", "search_threshold"),
        ),
        Tool(
            "onnxruntime",
            own,
            "with_onnxruntime.py",
            ("S8 MinMax", "S8 Percentile", "U8 MinMax", "U8 Percentile"),
        ),
        Tool(
            "NNCF",
            given.nncf,
            "with_nncf.py",
            ("mixed", "mixed, full bias correction", "mixed, no bias correction", "performance"),
        ),
        Tool("AIMET", given.aimet, "with_aimet.py", ("min_max", "tf_enhanced", "CLE, tf_enhanced")),
    ]


def chosen(available: list[Tool], only: list[str] | None) -> list[tuple[Tool, str]]:
    """The tools that are there, in the settings asked for."""
    present = [(tool, setting) for tool in available if tool.python is not None for setting in tool.settings]
    if only is None:
        return present
    known = {name for tool, setting in present for name in (tool.name, f"{tool.name}/{setting}")}
    for name in only:
        if name not in known:
            sys.exit(f"--only {name}: is not there; known are {', '.join(sorted(known))}")
    return [(tool, setting) for tool, setting in present if {tool.name, f"{tool.name}/{setting}"} & set(only)]


def float_answers(task: Task, test: list[Feed]) -> Answers:
    session = onnxruntime.InferenceSession(task.model_path, providers=["CPUExecutionProvider"])
    outputs = zip(*(session.run(None, feed) for feed in test), strict=True)
    return answers(task, [np.stack(rows) for rows in outputs])


def measure(name: str, task: Task, floats: Answers, tool: Tool, setting: str, samples: Path) -> Row:
    """The row of a tool in a setting on a task."""
    target = samples.with_name("outputs.npz")
    target.unlink(missing_ok=True)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    command = [tool.python, QUANTIZERS / tool.script, task.model_path, samples, setting, target]
    try:
        done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True)
    except OSError as error:
        return Row(name, tool.name, setting, failure=str(error))
    if done.returncode or not target.exists():
        printed = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()
        return Row(name, tool.name, setting, failure=" ".join(printed[-1].split()))
    with np.load(target) as found:
        outputs: list[Array] = [found[f"output.{number}"] for number in range(len(floats.outputs))]
        costs = float(found["seconds"]), float(found["cpu_seconds"]), int(found["peak"])
        version = str(found["version"])
    return Row(name, tool.name, setting, version, compare(answers(task, outputs), floats), *costs)


def wanted(given: argparse.Namespace) -> Mapping[str, tuple[Task, int | None]]:
    """The tasks asked for, and how many calibration samples each shall take (None: all)."""
    tasks = DEMO if given.tasks is None else read_tasks(given.tasks)
    found: dict[str, tuple[Task, int | None]] = {}
    for text in given.names or tasks:
        name, _, count = text.partition("=")
        if name not in tasks:
            sys.exit(f"{name}: is no task; there are {', '.join(tasks)}")
        if count and not count.isdecimal():
            sys.exit(f"{text}: {count} is no number of calibration samples")
        found[name] = tasks[name], int(count) if count else None
    return found


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME[=COUNT]", help="tasks (default: all of the file)")
    parser.add_argument("--tasks", type=Path, metavar="FILE.py")
    parser.add_argument("--tpu-mlir", type=Path, metavar="BIN", help="the folder of TPU-MLIR's commands")
    parser.add_argument("--nncf", type=Path, metavar="PYTHON", help="an interpreter with NNCF")
    parser.add_argument("--aimet", type=Path, metavar="PYTHON", help="an interpreter with AIMET")
    parser.add_argument("--only", nargs="+", metavar="TOOL[/SETTING]", help="measure nothing else")
    parser.add_argument("--from", dest="earlier", type=Path, metavar="RESULTS.json", help="rows to begin with")
    parser.add_argument("--json", type=Path, metavar="FILE", help="written after every row")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="written after every row")
    return parser.parse_args()


def main() -> None:
    given = parsed()
    measured = chosen(tools(given), given.only)
    results = read_results(given.earlier) if given.earlier else Results({}, [])
    for name, (task, count) in wanted(given).items():
        calibration, test = list(task.calibration(count)), list(task.test(1))
        floats = float_answers(task, test)
        results.begin(name, Measured(len(test), len(calibration), task.metric_name, floats.scored()))
        print(headline(name, results.tasks[name]), flush=True)
        with tempfile.TemporaryDirectory() as folder:
            samples = Path(folder) / "samples.npz"
            save_samples(samples, calibration, test)
            del calibration, test
            for tool, setting in measured:
                row = measure(name, task, floats, tool, setting, samples)
                print(line(row), flush=True)
                results.add(row)
                if given.json:
                    results.write_json(given.json)
                if given.markdown:
                    given.markdown.write_text(markdown(results))


if __name__ == "__main__":
    main()
