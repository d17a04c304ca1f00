"""Found schedules are kept by content: hit and miss give the same bytes, and nothing in the cache can do harm."""

import json

import pytest
from random_networks import chain

from tpu_deploy.codegen.bmodel import serialize
from tpu_deploy.codegen.compile import compile_network
from tpu_deploy.pipeline import schedules
from tpu_deploy.pipeline.schedules import cache_folder, compiled, digest


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.delenv(schedules.SWITCH)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "tpu-deploy" / "schedules"


@pytest.fixture
def searches(monkeypatch):
    """Counts the searches."""
    found = []

    def counted(network, chip, **options):
        found.append(options.get("schedule"))
        return compile_network(network, chip, **options)

    monkeypatch.setattr(schedules, "compile_network", counted)
    return found


def test_a_kept_schedule_gives_the_bytes_of_the_one_that_was_found(cache, searches):
    network = chain(4)
    first, second = (serialize(compiled(network, "bm1684x").bmodel) for _ in "12")
    assert first == second == serialize(compile_network(network).bmodel)
    assert searches[0] is None and searches[1] is not None
    assert [path.stem for path in cache.iterdir()] == [digest(network, "bm1684x", 1)]


def test_the_name_depends_on_weights_types_and_level():
    network, other = chain(4), chain(4)
    name = next(iter(other.weights))
    other.weights[name] = other.weights[name] ^ 1
    names = {digest(network, "bm1684x", 1), digest(network, "bm1684x", 2), digest(other, "bm1684x", 1)}
    names.add(digest(chain(5), "bm1684x", 1))
    assert len(names) == 4
    assert digest(chain(4), "bm1684x", 1) in names


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'{"schedule": {}}', b"\xff" * 100, b"[" * 100_000],
    ids=["empty", "cut", "list", "null", "no schedule", "binary", "deep"],
)
def test_what_is_no_entry_is_passed_over_and_replaced(cache, searches, content):
    network = chain(4)
    path = cache / f"{digest(network, 'bm1684x', 1)}.json"
    cache.mkdir(parents=True)
    path.write_bytes(content)
    expected = serialize(compile_network(network).bmodel)
    assert serialize(compiled(network, "bm1684x").bmodel) == expected
    assert searches == [None]
    assert json.loads(path.read_bytes())["name"] == path.stem


def test_an_entry_of_another_network_or_a_changed_one_is_passed_over(cache, searches):
    network, other = chain(4), chain(7)
    compiled(network, "bm1684x")
    path = cache / f"{digest(network, 'bm1684x', 1)}.json"
    foreign = cache / f"{digest(other, 'bm1684x', 1)}.json"
    foreign.write_bytes(path.read_bytes())
    changed = json.loads(path.read_bytes())
    changed["schedule"]["lookahead"] += 1
    path.write_bytes(json.dumps(changed).encode())
    compiled(other, "bm1684x")
    compiled(network, "bm1684x")
    assert searches == [None, None, None]


def test_level_0_no_cache_and_the_environment_leave_the_cache_alone(cache, monkeypatch):
    compiled(chain(4), "bm1684x", optimize=0)
    compiled(chain(4), "bm1684x", cache=False)
    monkeypatch.setenv(schedules.SWITCH, "1")
    compiled(chain(4), "bm1684x")
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert cache_folder().parts[-2:] == ("tpu-deploy", "schedules")
    assert compiled(chain(4), "bm1684x").commands
