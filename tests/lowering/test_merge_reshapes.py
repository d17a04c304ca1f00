from top_networks import Top, rewritten

from tpu_deploy.lowering.merge_reshapes import merge_reshapes


def test_a_chain_of_reshapes_becomes_one() -> None:
    top = Top((2, 6, 1, 1))
    a = top.op("Squeeze", "a", top.x, shape=(2, 6), axes=[2, 3])
    b = top.op("Unsqueeze", "b", a, shape=(1, 2, 6), axes=[0])
    y = top.op("Reshape", "y", b, shape=(3, 4))
    assert rewritten(top.finish(y), merge_reshapes) == ["y=Reshape"]


def test_a_lone_squeeze_becomes_a_reshape() -> None:
    top = Top((2, 6, 1, 1))
    y = top.op("Squeeze", "y", top.x, shape=(2, 6), axes=[2, 3])
    assert rewritten(top.finish(y), merge_reshapes) == ["y=Reshape"]


def test_a_value_between_that_is_returned_stays_for_its_reader() -> None:
    top = Top((2, 6, 1, 1))
    a = top.op("Squeeze", "a", top.x, shape=(2, 6), axes=[2, 3])
    y = top.op("Reshape", "y", a, shape=(12,))
    network = top.finish(a, y)
    assert rewritten(network, merge_reshapes) == ["a=Reshape", "y=Reshape"]
    assert network.operations[1].operands[0] is network.inputs[0]


def test_two_permutes_become_one() -> None:
    top = Top()
    a = top.op("Permute", "a", top.x, shape=(2, 9, 8, 6), order=[0, 2, 3, 1])
    y = top.op("Permute", "y", a, shape=(6, 2, 9, 8), order=[3, 0, 1, 2])
    assert rewritten(top.finish(y), merge_reshapes) == ["y=Permute"]


def test_a_permute_that_moves_only_axes_of_one_element_becomes_a_reshape() -> None:
    top = Top((2, 1, 9, 1))
    y = top.op("Permute", "y", top.x, shape=(1, 2, 9, 1), order=[1, 0, 2, 3])
    assert rewritten(top.finish(y), merge_reshapes) == ["y=Reshape"]


def test_a_permute_that_moves_elements_stays() -> None:
    top = Top((2, 1, 9, 3))
    y = top.op("Permute", "y", top.x, shape=(1, 9, 2, 3), order=[1, 2, 0, 3])
    assert rewritten(top.finish(y), merge_reshapes) == ["y=Permute"]
