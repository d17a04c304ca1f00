"""The ONNX project's own tests of single operators, as far as they concern supported ones on float32 tensors."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx_cases import run

from tpu_deploy.frontend import UnsupportedOperators, export_onnx, import_onnx
from tpu_deploy.frontend.model_file import newest_versions
from tpu_deploy.frontend.registry import CONVERTERS
from tpu_deploy.lowering.canonicalize import canonicalize

EXPECTED = 150
"""How many at least must be found and pass, so that a silent change of the collection is noticed."""


def collected() -> list[onnx.backend.test.case.test_case.TestCase]:
    """Tests of one supported operator with a float32 input, of an opset that onnxruntime runs."""
    from onnx.backend.test.case.node import collect_testcases

    found = []
    for case in collect_testcases(None):
        if case.model is None or {n.op_type for n in case.model.graph.node} - set(CONVERTERS):
            continue
        inputs = case.data_sets[0][0]
        tensors = all(isinstance(array, np.ndarray) and array.size for array in inputs)
        version = max(o.version for o in case.model.opset_import)
        if inputs and tensors and inputs[0].dtype == np.float32 and version <= newest_versions()[0]:
            found.append(case)
    return found


@pytest.mark.slow
def test_the_tests_of_onnx_itself_pass() -> None:
    passed, wrong = 0, []
    for case in collected():
        inputs, outputs = case.data_sets[0]
        model = case.model
        first, *others = model.graph.input
        for value, array in zip(others, inputs[1:], strict=True):
            model.graph.initializer.append(numpy_helper.from_array(array, value.name))
        del model.graph.input[1:]
        model.ir_version = min(model.ir_version, newest_versions()[1])
        try:
            network = import_onnx(model, {first.name: inputs[0].shape})
        except UnsupportedOperators:
            continue
        canonicalize(network)
        actual = run(export_onnx(network), {first.name: inputs[0]}).values()
        good = all(np.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(actual, outputs, strict=True))
        passed += good
        wrong += [] if good else [case.name]
    assert wrong == []
    assert passed >= EXPECTED
