"""Mistakes that are planted in users, tokens, roles and policies; see `tests/test_mutants.py`."""

_TOKENS, _ACCESS = "tests/gateway/people/test_access_tokens.py", "tests/gateway/access/test_authority.py"
_POLICIES, _FACTOR = "tests/gateway/access/test_policies.py", "tests/gateway/people/test_second_factor.py"
_CHECK = "gateway/people/access_tokens.py"

PEOPLE = {
    "a session that was ended": (
        _CHECK, "parts is None or _session(parts) in self._revoked", "parts is None", _TOKENS
    ),
    "a session that is ended later": (_CHECK, "principal.session in self._revoked or not", "not", _TOKENS),
    "a signature that nobody looked at": (
        _CHECK, "key.verify(_bytes(parts[2])", "(_bytes(parts[2])", _TOKENS
    ),
    "an algorithm that a token names": (_CHECK, "header.alg == ALGORITHM and ", "", _TOKENS),
    "a token that is no access token": (_CHECK, "header.typ.lower() == TYPE and ", "", _TOKENS),
    "an extension that has to be understood": (_CHECK, "and header.crit is msgspec.UNSET", "", _TOKENS),
    "a token of another issuer's": (_CHECK, "claims.iss == self._settings.issuer and ", "", _TOKENS),
    "a token for others": (_CHECK, "and claims.aud == self._settings.audience", "", _TOKENS),
    "a token of tomorrow": (_CHECK, "or ahead or", "or", _TOKENS),
    "a token that has expired": (_CHECK, "self._clock.now() >= principal.expires_at", "False", _TOKENS),
    "a user who is disabled": (_CHECK, "not state.disabled and ", "", _TOKENS),
    "a user of another tenant": (_CHECK, "and state.tenant == principal.tenant", "", _TOKENS),
    "roles that a token says it has": (_CHECK, "if state.roles != principal.roles:", "if False:", _TOKENS),
    "a blacklist that nobody could read": (
        "gateway/people/revoked.py", "if not self.known:", "if False:", _TOKENS
    ),
    "a key that was withdrawn": (
        "gateway/people/signing.py",
        "return key is not None and key.holds_at(self._clock.now())",
        "return True",
        _TOKENS,
    ),
    "a key that signs before it is known": (
        "gateway/people/signing.py", "if key.signs_from <= now]", "]", _TOKENS
    ),
    "a secret of another row": ("gateway/people/vault.py", "of.encode())\n", 'b"")\n', _TOKENS),
    "a code of long ago": ("gateway/people/second_factor.py", "30, 6, 1", "30, 6, 2", _FACTOR),
    "what denies does not override": (
        "gateway/access/authority.py",
        "if any(policy.when.hold(of) for policy in found.denying):",
        "if not found.granted and any(policy.when.hold(of) for policy in found.denying):",
        _ACCESS,
    ),
    "allowed by default": ("gateway/access/authority.py", "_YES if found.granted else _NO", "_YES", _ACCESS),
    "a decision for ever": ("gateway/access/authority.py", "now >= self._until or", "", _ACCESS),
    "a decision that outlives a change": (
        "gateway/access/authority.py", "            self.forget()\n", "", _ACCESS
    ),
    "rules that nobody could read": (
        "gateway/access/authority.py",
        "self._clock.monotonic() - confirmed <= self._grace_s",
        "True",
        _ACCESS,
    ),
    "an amount that nobody looks at": ("gateway/access/authority.py", "amount > above", "False", _ACCESS),
    "a built-in role of a tenant's own making": (
        "gateway/access/rules.py",
        "{**{role.name: role for role in roles}, **BUILT_IN}",
        "{**BUILT_IN, **{role.name: role for role in roles}}",
        _ACCESS,
    ),
    "roles that build on nothing": (
        "gateway/access/rules.py", "made.add_grouping_policies(links)", "pass", _ACCESS
    ),
    "a place that is not known": (
        "gateway/access/conditions.py",
        "    except ValueError:\n        return False\n    return any",
        "    except ValueError:\n        return True\n    return any",
        _POLICIES,
    ),
    "a span over midnight": (
        "gateway/access/conditions.py", "else now >= begins or now < ends", "else False", _POLICIES
    ),
    "an attribute that there is not": (
        "gateway/access/conditions.py",
        'raise UnknownName("policy attribute", name, ATTRIBUTES, where=where)',
        "continue",
        _POLICIES,
    ),
}  # fmt: skip
