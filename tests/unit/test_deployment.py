"""How the URL of a Redis is read, and which node has a slot.

1. one server: redis-py's URLs, as they are
2. a cluster or sentinels: hosts, credentials and options in every node's URL
3. what is none of these is refused
4. a slot map: ranges, the node that does not know itself, slots without a node
"""

from __future__ import annotations

import pytest

from sidecar import keys
from sidecar.deployment import ONLY, Kind, SlotMap, master_of, parse, slot_of


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1:6379/0",
        "rediss://user:p%40ss@redis.example/3?ssl_ca_certs=/ca.pem",
        "unix:///run/redis.sock?db=2",
    ],
)
def test_one_server_is_where_its_url_says(url: str) -> None:
    one = parse(url)
    assert (one.kind, one.node_url(ONLY)) == (Kind.SINGLE, url)


def test_the_nodes_of_a_cluster_have_its_credentials_and_options() -> None:
    cluster = parse("rediss+cluster://u:p@a:7000,[::1]:7001?ssl_ca_certs=/ca.pem")
    assert cluster.seeds == (("a", 7000), ("::1", 7001))
    assert cluster.node_url(("b", 7002)) == "rediss://u:p@b:7002/0?ssl_ca_certs=%2Fca.pem"
    assert cluster.node_url(("::1", 7001)) == "rediss://u:p@[::1]:7001/0?ssl_ca_certs=%2Fca.pem"
    assert cluster.sentinel_options()["ssl"]


def test_sentinels_name_a_service_and_maybe_a_database() -> None:
    watched = parse("redis+sentinel://:p@s1:26379,s2:26379/main/4?sentinel_password=q")
    assert watched.seeds == (("s1", 26379), ("s2", 26379))
    assert watched.service == "main"
    options = watched.sentinel_options()
    assert (options["username"], options["password"], options["ssl"]) == (None, "q", False)
    assert watched.node_url(("m", 6379)) == "redis://:p@m:6379/4"
    assert parse("redis+sentinel://s1:26379/main").node_url(("m", 1)) == "redis://m:1/0"


def test_braces_in_a_password_stay_what_they_are() -> None:
    assert parse("redis+cluster://:{0}@a:1").node_url(("b", 2)) == "redis://:{0}@b:2/0"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "redis:",
        "redis://",
        "http://127.0.0.1",
        "redis://a:1,b:2/0",
        "redis+cluster://",
        "redis+cluster://a",
        "redis+cluster://a:0",
        "redis+cluster://a:1,",
        "redis+cluster://a:65536",
        "redis+cluster://a:1/1",
        "redis+nothing://a:1",
        "unix+cluster://a:1",
        "redis+sentinel://a:1",
        "redis+sentinel://a:1/",
        "redis+sentinel://a:1/main/x",
        "redis+sentinel://a:1/main/0/0",
    ],
)
def test_what_is_no_deployment_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse(url)


def test_of_what_sentinels_say_the_newest_configuration_counts() -> None:
    old = {"ip": "a", "port": 1, "config-epoch": 3}
    new = {"ip": "b", "port": 2, "config-epoch": 4}
    assert master_of([old, new]) == master_of([new, old]) == ("b", 2)
    assert master_of([{}, old]) == ("a", 1)
    assert master_of([]) is None


def test_a_slot_has_the_node_whose_range_it_is_in() -> None:
    answer = [
        [0, 5, [b"a", 7000, b"id"], [b"replica", 7001, b"id"]],
        [6, 9, [b"", 7002, b"id"]],
        [11, 16383, ["b", 7003, "id", []]],
    ]
    found = SlotMap.of_cluster(answer, ("asked", 1))
    owners = [found.owner(slot) for slot in (0, 5, 6, 10, 11)]
    assert owners == [("a", 7000), ("a", 7000), ("asked", 7002), None, ("b", 7003)]
    assert found.owners == [("a", 7000), ("asked", 7002), ("b", 7003)]


def test_all_keys_of_a_shard_are_in_its_slot_and_all_others_in_one() -> None:
    from redis.crc import key_slot

    for shard in (0, 63, 998):
        names = [*keys.account_keys("acme", shard, 7), keys.fence(shard), keys.cursor(shard)]
        assert {key_slot(name.encode()) for name in names} == {slot_of(shard)}
    homes = (keys.META, keys.ASK, keys.SIDECARS, keys.REGISTERED)
    assert {key_slot(name.encode()) for name in homes} == {slot_of(None)}
