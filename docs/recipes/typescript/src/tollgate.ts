// The quota gates of an app in TypeScript, over Tollgate's HTTP. Node 18 or later, no dependencies.
//
//   1. ask before it costs:  checkLLMQuotaBeforeRequest, checkE2BQuotaBeforeOperation (as a quotaCheckCallback)
//   2. operate, or pass the denial on:  createQuotaExceededStreamResponse, createQuotaExceededResponse
//   3. record what it cost:  recordCost
//
// If the gate does not answer in time, the request is allowed: availability goes over strict enforcement, and the cost is
// still recorded. Any answer but a denial counts as no answer.

export interface QuotaDetails {
  scope: string;
  scopeId: string;
  resourceType: string;
  limitUsd: number;
  currentSpendUsd: number;
  heldUsd: number;
  estimatedCostUsd?: number;
  remainingUsd: number;
  period: "hour" | "day" | "week" | "month" | "lifetime";
  utilizationPercent: number;
  resetsAt: string | null;
}

export interface Denial {
  error: "quota_exceeded" | "policy_denied";
  message: string;
  resourceType: string;
  quotaDetails?: QuotaDetails;
  retryAfter?: number;
  code: string;
  decisionId: string;
}

export type QuotaCheckResult =
  | { allowed: true; quotaDetails?: QuotaDetails; degraded?: boolean }
  | { allowed: false; reason: string; quotaDetails?: QuotaDetails; denial: Denial };

/** What `ExecutionContextManager` takes as its `quotaCheckCallback`. */
export type E2BQuotaCheckCallback = (tenantId: string, estimatedCostUsd: number) => Promise<QuotaCheckResult>;

export interface TollgateOptions {
  /** Where the gate listens. */
  url: string;
  /** The app token, where the gate has one. */
  token?: string;
  /** How long an answer may take, in milliseconds, before the request is allowed without one. */
  timeoutMs?: number;
}

export class Tollgate {
  constructor(private readonly options: TollgateOptions) {}

  /** Before a chat request is processed. */
  checkLLMQuotaBeforeRequest = (tenantId: string, estimatedCostUsd = 0.05, userId?: string): Promise<QuotaCheckResult> =>
    this.check({ tenantId, userId, resourceType: "llm", estimatedCostUsd });

  /** Before a sandbox is created. */
  checkE2BQuotaBeforeOperation: E2BQuotaCheckCallback = (tenantId, estimatedCostUsd) =>
    this.check({ tenantId, resourceType: "e2b", estimatedCostUsd });

  /** After the operation, once for each `costId`, however often it is sent. */
  async recordCost(cost: {
    tenantId: string;
    resourceType: string;
    costId: string;
    actualCostUsd: number | string;
    userId?: string;
    attributes?: Record<string, string>;
  }): Promise<void> {
    const response = await this.post("/v1/costs", cost);
    if (!response.ok) throw new Error(`cost ${cost.costId} not recorded: ${response.status} ${await response.text()}`);
  }

  private async check(request: object): Promise<QuotaCheckResult> {
    try {
      const response = await this.post("/v1/check", request);
      const body = await response.json();
      if (response.ok) return { allowed: true, quotaDetails: body.quotaDetails ?? undefined };
      if (body.error === "quota_exceeded" || body.error === "policy_denied") {
        return { allowed: false, reason: body.message, quotaDetails: body.quotaDetails, denial: body };
      }
      console.warn("Quota check without an answer, allowed", { status: response.status, error: body.error });
    } catch (error) {
      console.warn("Quota check without an answer, allowed", { error: String(error) });
    }
    return { allowed: true, degraded: true };
  }

  private post(path: string, body: object): Promise<Response> {
    const headers: Record<string, string> = { "content-type": "application/json" };
    if (this.options.token) headers.authorization = `Bearer ${this.options.token}`;
    const signal = AbortSignal.timeout(this.options.timeoutMs ?? 250);
    return fetch(this.options.url + path, { method: "POST", headers, body: JSON.stringify(body), signal });
  }
}

function denialHeaders(denial: Denial, contentType: string): Record<string, string> {
  // The vendors' clients retry a 429, unless they are told that it does not help.
  const headers: Record<string, string> = { "content-type": contentType, "x-should-retry": "false" };
  if (denial.retryAfter !== undefined) headers["retry-after"] = String(denial.retryAfter);
  return headers;
}

function denialStatus(denial: Denial): number {
  return denial.error === "quota_exceeded" ? 429 : 403;
}

/** A denial as JSON. */
export function createQuotaExceededResponse(denial: Denial): Response {
  return new Response(JSON.stringify(denial), {
    status: denialStatus(denial),
    headers: denialHeaders(denial, "application/json"),
  });
}

/** A denial as server-sent events, for a chat that streams. */
export function createQuotaExceededStreamResponse(denial: Denial): Response {
  const events =
    `event: error\ndata: ${JSON.stringify(denial)}\n\n` +
    `event: done\ndata: ${JSON.stringify({ status: denial.error })}\n\n`;
  return new Response(events, { status: denialStatus(denial), headers: denialHeaders(denial, "text/event-stream") });
}
