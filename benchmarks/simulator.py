"""Time of running a bmodel on the simulator and on the vendor's chip model, whole processes in turns.

    python benchmarks/simulator.py [FILE.bmodel ...] [--rounds 3]

Without files it deploys the generated networks of `networks.py` first. Needs `tpu-deploy chip-model install` for the
comparison; inputs are seeded noise, and the outputs of both must be equal.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from networks import NETWORKS

import tpu_deploy
from tpu_deploy.codegen.bmodel import read_bmodel
from tpu_deploy.runtime.chip_model_install import available
from tpu_deploy.runtime.session import PLACES

CALIBRATION = 4


def deployed(name: str, folder: Path) -> Path:
    model, output = folder / f"{name}.onnx", folder / f"{name}.bmodel"
    onnx.save(NETWORKS[name](1), model)
    first = onnx.load(model, load_external_data=False).graph.input[0]
    shape = [dim.dim_value for dim in first.type.tensor_type.shape.dim]
    random = np.random.default_rng(0)
    samples = [{first.name: random.normal(0, 1, shape).astype(np.float32)} for _ in range(CALIBRATION)]
    tpu_deploy.deploy(model, data=samples, output=output, verify=False)
    return output


def noise(bmodel: Path, target: Path) -> None:
    random = np.random.default_rng(1)
    inputs = read_bmodel(bmodel).nets[0].stages[0].inputs
    np.savez(target, **{each.name: random.normal(0, 1, each.shape).astype(np.float32) for each in inputs})


def seconds(bmodel: Path, inputs: Path, output: Path, place: str) -> float:
    command = [sys.executable, "-m", "tpu_deploy.cli", "run", str(bmodel), "--inputs", str(inputs), "-o", str(output)]
    start = time.perf_counter()
    subprocess.run([*command, "--on", place], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bmodels", nargs="*", type=Path, metavar="FILE.bmodel")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    places = PLACES if available() else ("simulator",)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for bmodel in given.bmodels or [deployed(name, folder) for name in NETWORKS]:
            noise(bmodel, folder / "in.npz")
            times: dict[str, list[float]] = {place: [] for place in places}
            for _ in range(given.rounds):
                for place in places:
                    times[place].append(seconds(bmodel, folder / "in.npz", folder / f"{place}.npz", place))
            print(f"{bmodel.stem:16}", *(f"{place} {min(taken):.2f} s" for place, taken in times.items()), end="")
            if len(places) == 2:
                first, second = (np.load(folder / f"{place}.npz") for place in places)
                same = all(np.array_equal(first[name], second[name]) for name in first.files)
                ratio = min(times["chip-model"]) / min(times["simulator"])
                print(f", {ratio:.1f} times as fast, outputs {'equal' if same else 'DIFFERENT'}", end="")
            print(flush=True)


if __name__ == "__main__":
    main()
