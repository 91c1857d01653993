"""Scripts of one Redis process: any other refuses them before they run."""

from __future__ import annotations

import pytest
import redis
from redis.exceptions import NoScriptError

from sidecar import keys
from sidecar.scripts import Script, load_scripts

RUN_ID = "0123456789abcdef0123456789abcdef01234567"
OTHER = RUN_ID[::-1]


def test_each_process_has_its_own_shas() -> None:
    shas = [{script.sha for script in load_scripts(run_id).all()} for run_id in ("", RUN_ID, OTHER)]
    assert not shas[0] & shas[1]
    assert not shas[1] & shas[2]
    assert shas[1] == {script.sha for script in load_scripts(RUN_ID).all()}


@pytest.mark.parametrize("script", load_scripts(RUN_ID).all(), ids=lambda script: script.name)
def test_redis_knows_a_bound_script_by_its_sha(redis_client: redis.Redis, script: object) -> None:
    assert isinstance(script, Script)
    assert redis_client.script_load(script.text) == script.sha


def test_another_process_does_not_know_the_script(redis_client: redis.Redis) -> None:
    for script in load_scripts(RUN_ID).all():
        redis_client.script_load(script.text)
    names = keys.account_keys("acme", 0, 1)
    with pytest.raises(NoScriptError):
        redis_client.evalsha(load_scripts(OTHER).debit.sha, len(names), *names, 1)


@pytest.mark.parametrize("run_id", ["'", "a b", "a'--", "\n"])
def test_a_run_id_cannot_break_out_of_the_text(run_id: str) -> None:
    with pytest.raises(ValueError, match="run_id"):
        load_scripts(run_id)
