"""Places in local and global memory: nothing that is alive together overlaps."""

from itertools import combinations, permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from tpu_deploy.chips import chip
from tpu_deploy.codegen.global_memory import ALIGN, Lifetime, assign
from tpu_deploy.codegen.timeline import Block, pack

CHIP = chip("bm1684x")
PROPERTY = settings(derandomize=True, max_examples=60, deadline=None)
SLOTS = 12


@st.composite
def blocks(draw) -> list[Block]:
    made = []
    for index in range(draw(st.integers(1, 14))):
        first = draw(st.integers(0, SLOTS - 1))
        last = draw(st.integers(first, SLOTS - 1))
        size = draw(st.sampled_from([1, 64, 100, 5000, 16384, 20000, 40000, 90000]))
        made.append(Block(f"b{index}", size, first, last))
    for one, other in combinations(made, 2):
        kind = draw(st.sampled_from(["", "", "", "apart", "away"]))
        if kind:
            getattr(one, kind).append(other)
            getattr(other, kind).append(one)
    return made


def assert_disjoint(made: list[Block]) -> None:
    bank = CHIP.bank_bytes
    for one, other in combinations([b for b in made if b.offset >= 0], 2):
        if one.last < other.first or other.last < one.first:
            continue
        assert one.end <= other.offset or other.end <= one.offset, f"{one} overlaps {other}"
        if any(other is each for each in one.apart):
            assert (one.end - 1) // bank < other.offset // bank or (other.end - 1) // bank < one.offset // bank


def assert_inside(made: list[Block]) -> None:
    for block in made:
        assert block.offset % CHIP.vector_bytes == 0
        assert block.offset >= 0 and block.end <= CHIP.lane_bytes


@PROPERTY
@given(blocks())
def test_blocks_alive_together_do_not_overlap_and_apart_ones_share_no_bank(made):
    timeline, failed = pack(made, SLOTS, CHIP)
    placed = [block for block in made if block.offset >= 0]
    assert failed is not None or len(placed) == len(made)
    assert_disjoint(placed)
    assert_inside(placed)
    assert timeline.peak() <= CHIP.lane_bytes
    if failed is None and not any(_same_bank(one, other) for one in made for other in one.away):
        assert timeline.lower_bound() <= timeline.peak()


def _same_bank(one: Block, other: Block) -> bool:
    return one.offset // CHIP.bank_bytes == other.offset // CHIP.bank_bytes


@PROPERTY
@given(blocks(), st.integers(1, CHIP.lane_bytes // 64))
def test_blocks_lie_below_the_height_they_are_given(made, vectors):
    timeline, _ = pack(made, SLOTS, CHIP, 64 * vectors)
    assert timeline.peak() <= 64 * vectors


def test_three_blocks_that_stay_away_from_each_other_need_three_banks():
    made = [Block(f"b{k}", 64, 0, 0) for k in range(3)]
    for one, other in permutations(made, 2):
        one.away.append(other)
    timeline, _ = pack(made, 1, CHIP)
    assert timeline.lower_bound() == timeline.peak() == 2 * CHIP.bank_bytes + 64


@PROPERTY
@given(blocks(), st.data())
def test_blocks_that_begin_earlier_still_overlap_nothing(made, data):
    timeline, failed = pack(made, SLOTS, CHIP)
    if failed is not None:
        return
    before = {block.name: (block.first, block.last) for block in made}
    for block in data.draw(st.permutations(made)):
        earliest = data.draw(st.integers(0, block.first))
        timeline.advance(block, earliest)
        first, last = before[block.name]
        assert earliest <= block.first <= first and block.last == last
        before[block.name] = (block.first, block.last)
        assert_disjoint(made)
        assert_inside(made)


def test_what_fits_only_side_by_side_in_time_is_placed_on_top_of_each_other():
    made = [Block(f"b{k}", CHIP.lane_bytes, k, k) for k in range(SLOTS)]
    _, failed = pack(made, SLOTS, CHIP)
    assert failed is None
    assert {block.offset for block in made} == {0}


def test_the_first_block_that_finds_no_room_is_given_back():
    made = [Block("long", 64, 0, 1), Block("large", CHIP.lane_bytes, 1, 1)]
    _, failed = pack(made, 2, CHIP)
    assert failed is not None and failed.name == "large"


lifetimes = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 15), st.integers(0, 15)), min_size=1, max_size=25).map(
    lambda rows: [Lifetime(f"b{k}", size * ALIGN, min(a, b), max(a, b)) for k, (size, a, b) in enumerate(rows)]
)


@PROPERTY
@given(lifetimes)
def test_global_buffers_alive_together_do_not_overlap(alive):
    plan = assign(alive)
    for one, other in combinations(alive, 2):
        if one.last < other.first or other.last < one.first:
            continue
        begin, end = plan.offsets[one.buffer], plan.offsets[other.buffer]
        assert begin + one.size <= end or end + other.size <= begin


@PROPERTY
@given(lifetimes)
def test_the_size_covers_all_buffers_and_is_not_below_the_lower_bound(alive):
    plan = assign(alive)
    assert plan.size == max(plan.offsets[item.buffer] + item.size for item in alive)
    busiest = max(sum(t.size for t in alive if t.first <= k <= t.last) for k in range(16))
    assert plan.lower_bound == busiest <= plan.size <= sum(t.size for t in alive)
    assert all(offset % ALIGN == 0 for offset in plan.offsets.values())


@PROPERTY
@given(lifetimes)
def test_the_plan_does_not_depend_on_the_order_in_which_buffers_are_named(alive):
    assert assign(alive) == assign(alive[::-1])


def test_buffers_that_are_never_alive_together_share_their_bytes():
    plan = assign([Lifetime(f"b{k}", ALIGN, 2 * k, 2 * k + 1) for k in range(9)])
    assert plan.size == plan.lower_bound == ALIGN
