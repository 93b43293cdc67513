// Decides as `standard` does: a request fits if spend, what is held and the estimate stay within every quota's limit.
//
// Amounts and instants are BigInt, so money stays exact. What is thrown becomes the interface's error.

const DOLLAR = 1_000_000_000n;
const CENT = DOLLAR / 100n;

/** `$48.50`, and below a cent as many decimals as the amount has. Amounts are never below zero here. */
function usd(amount) {
  const dollars = amount / DOLLAR;
  const decimals = amount % DOLLAR;
  if (decimals % CENT === 0n) return `$${dollars}.${String(decimals / CENT).padStart(2, "0")}`;
  return `$${dollars}.${String(decimals).padStart(9, "0").replace(/0+$/, "")}`;
}

const remaining = (quota) => quota.limit - quota.spend - quota.held;

/** Whether `a` binds before `b`: it resets later, or at the same time with less remaining. */
function bindsBefore(a, b) {
  const [endA, endB] = [a.quota.windowEnd, b.quota.windowEnd];
  if (endA === endB) return remaining(a.quota) < remaining(b.quota);
  if (endB === undefined) return false;
  return endA === undefined || endA > endB;
}

function reason(request, quota) {
  const resource = request.resourceType.toUpperCase();
  const held = quota.held > 0n ? `, Reserved: ${usd(quota.held)}` : "";
  const [limit, spend, estimate] = [quota.limit, quota.spend, request.estimate].map(usd);
  return `${resource} quota exceeded. Limit: ${limit}, Current: ${spend}, Requested: ${estimate}${held}`;
}

export const decider = {
  describe() {
    const summary = "Lets a request through that fits into every quota; without a quota, everything.";
    return { name: "javascript", version: "0.1.0", summary, settings: [], extra: [] };
  },

  validateSettings(_settings) {},

  decide({ request, quotas }) {
    const exceeded = quotas
      .map((quota, index) => ({ quota, index }))
      .filter(({ quota }) => remaining(quota) < request.estimate);
    if (exceeded.length === 0) return { tag: "allow", val: { atMost: undefined, annotations: [] } };
    const { quota, index } = exceeded.reduce((binding, next) => (bindsBefore(next, binding) ? next : binding));
    const onlyHeld = exceeded.every(({ quota }) => remaining(quota) + quota.held >= request.estimate);
    const code = onlyHeld ? "capacity_held" : "limit_exceeded";
    const denial = { code, reason: reason(request, quota), quota: index, retryAfterS: undefined, annotations: [] };
    return { tag: "deny", val: denial };
  },
};
