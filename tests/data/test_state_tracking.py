"""Groups are groups, labels are products in order, slices are ranges of positions."""

from functools import reduce
from math import factorial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltalab.data.batch import make_task
from deltalab.data.state_tracking import cayley_table, group_elements, product_table, running_products
from deltalab.errors import ConfigError
from deltalab.spec.data import StateTrackingSpec
from deltalab.spec.groups import Group, generated_group

every_group = pytest.mark.parametrize("group", Group)


@every_group
def test_order_is_that_of_the_elements(group: Group):
    elements = group_elements(group)
    assert len({tuple(element) for element in elements.tolist()}) == group.order == len(cayley_table(group))
    assert (np.sort(elements) == np.arange(group.degree)).all()


@every_group
def test_products_associate(group: Group):
    table = cayley_table(group)
    left = table[table]  # [a, b, c]: (a·b)·c
    right = table[:, table]  # [a, b, c]: a·(b·c)
    assert np.array_equal(left, right)


@every_group
def test_zero_is_the_identity_and_every_element_has_an_inverse(group: Group):
    table, elements = cayley_table(group), np.arange(group.order)
    np.testing.assert_array_equal(table[0], elements)
    np.testing.assert_array_equal(table[:, 0], elements)
    assert ((table == 0).sum(axis=0) == 1).all()
    assert ((table == 0).sum(axis=1) == 1).all()


@every_group
def test_only_cyclic_groups_commute(group: Group):
    table = cayley_table(group)
    assert np.array_equal(table, table.T) == group.value.startswith("Z")


@pytest.mark.parametrize("group", [Group.Z3, Group.Z60])
def test_cyclic_groups_add(group: Group):
    elements = np.arange(group.order)
    np.testing.assert_array_equal(cayley_table(group), (elements[:, None] + elements) % group.order)


def test_orders():
    assert {group.value: group.order for group in Group} == {
        "Z2": 2, "Z3": 3, "Z5": 5, "Z60": 60, "S3": 6, "S4": 24, "S5": 120, "A5": factorial(5) // 2,
    }  # fmt: skip


def test_a5_has_even_permutations_only():
    signs = [np.linalg.det(np.eye(5)[element]) for element in group_elements(Group.A5)]
    np.testing.assert_allclose(signs, 1)


QUATERNIONS = [[1, 2, 3, 0, 5, 6, 7, 4], [4, 7, 6, 5, 2, 1, 0, 3]]  # i and j on 1 i -1 -i j k -j -k, from the right


@pytest.mark.parametrize(
    ("generators", "order", "commutes"),
    [
        (QUATERNIONS, 8, False),
        ([[1, 2, 3, 0], [3, 2, 1, 0]], 8, False),  # the symmetry of a square
        ([[1, 0, 2, 3, 4], [0, 1, 3, 4, 2]], 6, True),  # Z2 × Z3
        ([[0, 1]], 1, True),
    ],
)
def test_any_group_can_be_given_by_generators(generators: list[list[int]], order: int, commutes: bool):
    spec = StateTrackingSpec(generators=generators, train_length=9, test_length=9)
    assert spec.vocab_size == order
    elements = np.array(generated_group(generators))
    table = product_table(elements)
    assert np.array_equal(table, table.T) == commutes
    assert np.array_equal(table[table], table[:, table])
    batch = make_task(spec, 0).train_batch(0, 5)
    for tokens, targets in zip(batch.tokens, batch.targets, strict=True):
        points = np.arange(len(generators[0]))
        for token, target in zip(tokens, targets, strict=True):
            points = elements[token][points]
            assert np.array_equal(points, elements[target])


def test_generators_of_a_named_group_make_the_same_table():
    elements = np.array(generated_group([[1, 0, 2], [1, 2, 0]]))
    np.testing.assert_array_equal(product_table(elements), cayley_table(Group.S3))


@pytest.mark.parametrize(
    "generators", [[], [[]], [[0, 0]], [[0, 1], [0, 1, 2]], [[1, 2, 3, 4, 5, 6, 0], [1, 0, 2, 3, 4, 5, 6]]]
)
def test_generators_that_are_no_permutations_or_too_many_elements_are_refused(generators: list[list[int]]):
    with pytest.raises(ConfigError, match=r"data\.generators"):
        StateTrackingSpec(generators=generators)


def test_parity_is_the_number_of_ones():
    batch = make_task(StateTrackingSpec(group=Group.Z2, train_length=50), 0).train_batch(0, 8)
    np.testing.assert_array_equal(batch.targets, np.cumsum(batch.tokens, axis=1) % 2)


def test_the_example_of_the_module():
    tokens = np.array([[1, 1, 2, 3, 0]])
    assert running_products(tokens, cayley_table(Group.S3)).tolist() == [[1, 0, 2, 5, 5]]


@every_group
def test_labels_are_what_applying_the_permutations_in_turn_gives(group: Group):
    batch = make_task(StateTrackingSpec(group=group, train_length=11), 3).train_batch(0, 4)
    elements = group_elements(group).tolist()
    for tokens, targets in zip(batch.tokens, batch.targets, strict=True):
        points = list(range(group.degree))
        for token, target in zip(tokens, targets, strict=True):
            points = [elements[token][point] for point in points]
            assert points == elements[target]


@given(rows=st.integers(1, 5), length=st.integers(1, 40), seed=st.integers(0, 1000))
def test_doubling_gives_the_products_one_by_one(rows: int, length: int, seed: int):
    table = cayley_table(Group.S3)
    tokens = np.random.default_rng(seed).integers(6, size=(rows, length))
    expected = [[reduce(lambda a, b: int(table[a, b]), row[: t + 1]) for t in range(length)] for row in tokens.tolist()]
    assert running_products(tokens, table).tolist() == expected


def test_elements_are_drawn_uniformly():
    batch = make_task(StateTrackingSpec(group=Group.S3, train_length=100), 0).train_batch(0, 600)
    counts = np.bincount(batch.tokens.ravel(), minlength=6)
    assert abs(counts / 10_000 - 1).max() < 0.05


@given(train=st.integers(1, 20), test=st.integers(1, 70))
def test_slices_partition_the_positions(train: int, test: int):
    task = make_task(StateTrackingSpec(train_length=train, test_length=test), 0)
    (batch,) = task.eval_batches(2, 2)
    assert (np.sum(list(batch.slices.values()), axis=0) == 1).all()


def test_slices_go_in_steps_of_the_training_length():
    spec = StateTrackingSpec(train_length=32, test_length=80)
    assert spec.slices == ("1-32", "33-64", "65-80")
    (batch,) = make_task(spec, 0).eval_batches(3, 3)
    assert np.flatnonzero(batch.slices["33-64"][1]).tolist() == list(range(32, 64))
    assert StateTrackingSpec(train_length=32, test_length=20).slices == ("1-20",)
