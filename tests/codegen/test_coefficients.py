"""Coefficients of a bmodel are named by the operation that uses them."""

import pytest
from random_networks import chain

from tpu_deploy.codegen.compile import compile_network


@pytest.mark.parametrize("seed", [3, 5, 8])
def test_every_coefficient_is_named_by_the_operation_that_uses_it(seed):
    compiled = compile_network(chain(seed))
    held = compiled.bmodel.nets[0].stages[0].coefficients
    assert held is not None
    end = 0
    for location in held.locations:
        assert location.offset == end and location.size > 0
        end += location.size
    assert end <= len(held.data) < end + 4096
    assert {location.name for location in held.locations} <= {command.origin for command in compiled.commands}
