"""Authorization: a decision that is known, one that is not, and the check of an access token.

In this process, by the very objects that a gateway has; 10,000 policies in 20 tenants, on roles,
permissions, times, networks and data classes. The peers do the same work as their manuals have it: pycasbin's
`enforce` for every request, over 10,000 rules (without conditions, which its model has not); PyJWT with
`PyJWKClient`, which looks the key up in a key set that it has fetched, and decodes.

Results are compared first: what pycasbin allows by its roles we allow where no policy has a word in it, and a
token that PyJWT takes we take, with the same claims.

    python -m bench.access
"""

import asyncio
import random
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import casbin
import jwt
import uvloop

from bench.access_material import TENANTS, World, key_set, principal_of, rules_of_casbin
from bench.harness import (
    ROUNDS,
    BenchResult,
    Ratio,
    compare,
    control,
    require_equal,
    typical,
    versions,
    wall_time,
)
from bench.registry import text
from gateway.access.rules import MODEL
from gateway.principals import Principal

POLICIES, CACHED, UNCACHED, CHECKS, PEER = 10_000, 20_000, 2_000, 1_000, 10
CACHED_US, UNCACHED_US, TOKEN_US = 20.0, 1_000.0, 200.0


def bench(rounds: int = ROUNDS) -> BenchResult:
    """Ratios `cached_us`, `uncached_us`, `token_us` against their bars, and how often the peers' times."""
    with ExitStack() as exits:
        runner = exits.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        world = runner.run(World.make(POLICIES))
        asked = world.questions(CACHED)
        fresh = world.questions(UNCACHED)
        enforcer = _enforcer()
        _same_decisions(runner, world, enforcer)
        tokens = runner.run(world.tokens_of(CHECKS))
        client = exits.enter_context(key_set(world))
        _same_tokens(runner, world, client, tokens)

        cached = _each(runner, rounds, lambda: _decisions(world, asked), CACHED)
        uncached = _each(runner, rounds, lambda: _undecided(world, fresh), UNCACHED)
        checked = _each(runner, rounds, lambda: _checks(world, tokens), CHECKS)

        def ours() -> float:
            return float(runner.run(_undecided(world, fresh)) / UNCACHED)

        def casbins() -> float:
            begun = time.perf_counter()
            for principal, permission in fresh[:PEER]:
                enforcer.enforce(next(iter(principal.roles)), principal.tenant, permission)
            return (time.perf_counter() - begun) / PEER

        def ours_token() -> float:
            return float(runner.run(_checks(world, tokens)) / CHECKS)

        pyjwt = wall_time(lambda: _decode(client, tokens[0]), times=200)
        ratios = [
            _bar("cached_us", cached, CACHED_US, "a decision that is known: us"),
            _bar("uncached_us", uncached, UNCACHED_US, "a decision that is not, 10,000 policies: us"),
            _bar("token_us", checked, TOKEN_US, "an access token that was not seen before: us"),
            compare(
                "casbin", numerator=casbins, denominator=ours, goal=10.0, rounds=rounds,
                meaning="pycasbin's enforce over a decision of ours that is not known",
            ),
            compare(
                "pyjwt", numerator=pyjwt, denominator=ours_token, goal=None, rounds=rounds,
                meaning="PyJWT with PyJWKClient over a check of ours, users and blacklist included",
            ),
        ]  # fmt: skip
        return BenchResult(
            bench="access",
            ratios=ratios,
            versions=versions(["pycasbin", "pyjwt", "cryptography", "uvloop"]),
            sizes={
                "policies": POLICIES, "tenants": TENANTS, "decisions": CACHED, "tokens": CHECKS,
                "rules of casbin": len(rules_of_casbin()),
            },
            figures={
                "pycasbin enforce us": typical(casbins) * 1e6,
                "PyJWT with PyJWKClient us": typical(pyjwt) * 1e6,
                "a token that was seen before us": _seen(runner, world, tokens),
                "one argon2id verification ms": world.argon2_ms(),
            },
            control=control(ours),
        )  # fmt: skip


def _bar(name: str, per_round: Sequence[float], goal: float, meaning: str) -> Ratio:
    return Ratio(name, tuple(per_round), goal, at_most=True, meaning=meaning)


def _each(runner: "asyncio.Runner", rounds: int, work: Any, times: int) -> list[float]:
    """Microseconds of one, by round."""
    runner.run(work())
    return [runner.run(work()) / times * 1e6 for _ in range(rounds)]


async def _decisions(world: World, asked: Sequence[tuple[Principal, str]]) -> float:
    permit = world.allowed
    begun = time.perf_counter()
    for principal, permission in asked:
        await permit(principal, permission)
    return time.perf_counter() - begun


async def _undecided(world: World, asked: Sequence[tuple[Principal, str]]) -> float:
    """Each is forgotten before it is asked for, which is no part of the time."""
    took = 0.0
    for principal, permission in asked:
        world.authority.forget()
        begun = time.perf_counter()
        await world.allowed(principal, permission)
        took += time.perf_counter() - begun
    return took


async def _checks(world: World, tokens: Sequence[str]) -> float:
    """Of a gateway that has seen none of them, and knows their users."""
    checker = await world.checker()
    begun = time.perf_counter()
    for token in tokens:
        await checker.check(token)
    return time.perf_counter() - begun


def _seen(runner: "asyncio.Runner", world: World, tokens: Sequence[str]) -> float:
    async def again() -> float:
        checker = await world.checker()
        for token in tokens:
            await checker.check(token)
        begun = time.perf_counter()
        for token in tokens:
            await checker.check(token)
        return (time.perf_counter() - begun) / len(tokens) * 1e6

    return statistics.median(runner.run(again()) for _ in range(ROUNDS))


def _enforcer() -> casbin.Enforcer:
    model = casbin.Model()
    model.load_model_from_text(MODEL)
    made = casbin.Enforcer(model)
    made.add_policies(rules_of_casbin())
    return made


def _decode(client: Any, token: str) -> Any:
    key = client.get_signing_key_from_jwt(token)
    return jwt.decode(token, key, algorithms=["EdDSA"], audience="millstream", issuer="millstream")


def _same_decisions(runner: "asyncio.Runner", world: World, enforcer: casbin.Enforcer) -> None:
    chance = random.Random(1)
    plain = runner.run(World.make(0))
    for principal, permission in chance.sample(plain.questions(2_000), 40):
        (role,) = principal.roles
        theirs = enforcer.enforce(role, principal.tenant, permission)
        require_equal("a decision", runner.run(plain.allowed(principal, permission)), theirs)


def _same_tokens(runner: "asyncio.Runner", world: World, client: Any, tokens: Sequence[str]) -> None:
    async def ours() -> list[Principal]:
        checker = await world.checker()
        return [await checker.check(token) for token in tokens[:20]]

    found = [_decode(client, token) for token in tokens[:20]]
    require_equal("claims", [principal_of(claims) for claims in found], [
        (one.tenant, one.credential, one.session) for one in runner.run(ours())
    ])  # fmt: skip


if __name__ == "__main__":
    sys.stdout.write(text(bench()))
