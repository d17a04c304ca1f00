"""The page of a profile: whole, self-contained, small, and true to the profile it draws."""

from __future__ import annotations

import base64
import html.parser
import json
import re
from dataclasses import replace
from typing import Any

import pytest
from hand_made import Queues, bmodel
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import chain

from tpu_deploy.codegen.compile import compile_network
from tpu_deploy.reports import profile_page
from tpu_deploy.reports.profile import Profile, profile

MOST_BYTES = 6_000_000


def decoded(text: str) -> list[int]:
    """The numbers of a column, as the page reads them."""
    values, value, code, scale = [], 0, 0, 1
    for byte in base64.b64decode(text):
        code, scale = code + (byte & 127) * scale, scale * 128
        if byte < 128:
            value += -(code + 1) // 2 if code % 2 else code // 2
            values.append(value)
            code, scale = 0, 1
    return values


class Page(html.parser.HTMLParser):
    """What a page holds: open tags, references, and the data of its drawings."""

    VOID = frozenset({"meta", "br", "input", "link", "img"})

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.data: list[dict[str, Any]] = []
        self._inside = False
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]
        self._inside = ("type", "application/json") in attrs

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.data.append(json.loads(data))

    def handle_endtag(self, tag: str) -> None:
        self._inside = False
        if tag not in self.VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def ours() -> Profile:
    compiled = compile_network(chain(5))
    return profile(compiled.bmodel, compiled)


@given(st.lists(st.integers(-(1 << 45), 1 << 45)))
@settings(max_examples=50, derandomize=True)
def test_columns_hold_any_whole_numbers(values):
    assert decoded(profile_page.column(values)) == values


def test_the_page_is_whole_and_needs_nothing_else(ours):
    content = profile_page.render(ours)
    page = Page(content)
    assert page.open == [] and page.references == []
    assert not re.search(r"https?:|@import|url\(|import\(|fetch\(|XMLHttpRequest", content)


def test_the_drawing_has_every_command_and_block(ours):
    (stage,), (data,) = ours.stages, Page(profile_page.render(ours)).data
    for engine in ("TIU", "GDMA"):
        commands, queue = [c for c in stage.commands if c.engine == engine], data["queues"][engine]
        assert decoded(queue["start"]) == [command.start for command in commands]
        assert decoded(queue["cycles"]) == [command.cycles for command in commands]
        assert decoded(queue["number"]) == [command.number for command in commands]
        assert [data["names"][k] for k in decoded(queue["operation"])] == [command.operation for command in commands]
        assert [data["purposes"][k] for k in decoded(queue["purpose"])] == [command.purpose for command in commands]
    blocks = data["blocks"]
    assert decoded(blocks["offset"]) == [block.offset for block in stage.memory.blocks]
    assert [data["kinds"][k] for k in decoded(blocks["kind"])] == [block.kind for block in stage.memory.blocks]


def test_the_drawing_knows_which_command_each_waits_for(ours):
    (stage,), (data,) = ours.stages, Page(profile_page.render(ours)).data
    for engine, other in (("TIU", "GDMA"), ("GDMA", "TIU")):
        numbers = decoded(data["queues"][other]["number"])
        waits = [numbers[k - 1] if k else None for k in decoded(data["queues"][engine]["waits"])]
        commands = [c for c in stage.commands if c.engine == engine]
        assert waits == [stage.commands[c.waits_for].number if c.waits_for >= 0 else None for c in commands]


def test_every_class_of_commands_and_memory_has_a_colour(ours):
    content = profile_page.render(ours)
    for name in (*profile_page.PURPOSES, *profile_page.KINDS):
        assert content.count(f"--c-{name.replace(' ', '-')}: #") == 2, f"{name}: one for light, one for dark"


def test_names_cannot_break_the_page(ours):
    hostile = "</script><script>alert('x')</script>\"&"
    (stage,) = ours.stages
    commands = tuple(replace(command, operation=hostile) for command in stage.commands)
    shares = tuple(replace(share, name=hostile) for share in stage.operations)
    changed = replace(ours, stages=(replace(stage, commands=commands, operations=shares),), source=hostile)
    content = profile_page.render(changed)
    page = Page(content)
    assert "<script>alert" not in content and page.open == []
    assert hostile in page.data[0]["names"]


def test_a_page_of_very_many_commands_stays_small(ours):
    (stage,) = ours.stages
    times = 300_000 // len(stage.commands)
    blocks = stage.memory.blocks * (300_000 // len(stage.memory.blocks))
    many = replace(stage, commands=stage.commands * times, memory=replace(stage.memory, blocks=blocks))
    content = profile_page.render(replace(ours, stages=(many,)))
    assert len(content) < MOST_BYTES
    (data,) = Page(content).data
    assert data["together"] > 1 and data["blocks"]["length"] == profile_page.MOST_BARS
    busiest = max(sum(c.engine == engine for c in many.commands) for engine in ("TIU", "GDMA"))
    assert data["queues"]["TIU"]["length"] <= -(-busiest // data["together"]) <= profile_page.MOST_BARS


def test_every_stage_has_a_drawing_and_the_longest_is_shown():
    queues = Queues()
    queues.load(0, 0, 4096)
    short = bmodel(queues).nets[0].stages[0]
    long = bmodel(queues, queues).nets[0].stages[0]
    made = bmodel(queues)
    both = replace(made, nets=(replace(made.nets[0], stages=(short, long)),))
    content = profile_page.render(profile(both))
    assert len(Page(content).data) == 2
    assert content.count('<div class="stage" hidden>') == 1 and '<option value="1" selected>' in content


def test_a_stage_without_commands_can_be_drawn():
    assert Page(profile_page.render(profile(bmodel()))).open == []
