"""Decides as `standard` does: a request fits if spend, what is held and the estimate stay within every quota's limit.

Amounts are Python's whole numbers, so money stays exact. `raise Err("…")` becomes the interface's error.
"""

from wit_world import exports
from wit_world.exports.decider import (
    Allowance,
    Denial,
    Description,
    Facts,
    Pair,
    Quota,
    Request,
    Verdict,
    Verdict_Allow,
    Verdict_Deny,
)

DOLLAR = 1_000_000_000
CENT = DOLLAR // 100


def usd(amount: int) -> str:
    """`$48.50`, and below a cent as many decimals as the amount has. Amounts are never below zero here."""
    dollars, decimals = divmod(amount, DOLLAR)
    if decimals % CENT == 0:
        return f"${dollars}.{decimals // CENT:02}"
    return f"${dollars}." + f"{decimals:09}".rstrip("0")


def remaining(quota: Quota) -> int:
    return quota.limit - quota.spend - quota.held


def binds_before(quota: Quota) -> tuple[bool, int, int]:
    """Sorts the quota that resets last to the front, `lifetime` before all; of two that reset together the fuller one."""
    end = quota.window_end
    return (end is not None, -(end or 0), remaining(quota))


def reason(request: Request, quota: Quota) -> str:
    held = f", Reserved: {usd(quota.held)}" if quota.held > 0 else ""
    return (
        f"{request.resource_type.upper()} quota exceeded. Limit: {usd(quota.limit)}, "
        f"Current: {usd(quota.spend)}, Requested: {usd(request.estimate)}{held}"
    )


class Decider(exports.Decider):
    def describe(self) -> Description:
        summary = "Lets a request through that fits into every quota; without a quota, everything."
        return Description(name="python", version="0.1.0", summary=summary, settings=[], extra=[])

    def validate_settings(self, settings: list[Pair]) -> None:
        pass

    def decide(self, facts: Facts) -> Verdict:
        request = facts.request
        exceeded = [(n, quota) for n, quota in enumerate(facts.quotas) if remaining(quota) < request.estimate]
        if not exceeded:
            return Verdict_Allow(Allowance(at_most=None, annotations=[]))
        index, binding = min(exceeded, key=lambda each: binds_before(each[1]))
        only_held = all(remaining(quota) + quota.held >= request.estimate for _, quota in exceeded)
        return Verdict_Deny(
            Denial(
                code="capacity_held" if only_held else "limit_exceeded",
                reason=reason(request, binding),
                quota=index,
                retry_after_s=None,
                annotations=[],
            )
        )
