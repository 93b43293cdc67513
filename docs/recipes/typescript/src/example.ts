// The recipe at work: a chat route and a manager of sandboxes. Run with the gate's address and a tenant.
import { createQuotaExceededStreamResponse, Tollgate, type E2BQuotaCheckCallback } from "./tollgate.js";

const [url, tenantId] = process.argv.slice(2) as [string, string];
const tollgate = new Tollgate({ url, timeoutMs: 5_000 });

async function chat(): Promise<Response> {
  const quotaCheck = await tollgate.checkLLMQuotaBeforeRequest(tenantId);
  if (!quotaCheck.allowed) return createQuotaExceededStreamResponse(quotaCheck.denial);
  // … the model is called here, and costs this much:
  const costId = crypto.randomUUID();
  await tollgate.recordCost({ tenantId, resourceType: "llm", costId, actualCostUsd: "0.04" });
  return new Response("hello");
}

class ExecutionContextManager {
  constructor(private readonly config: { quotaCheckCallback?: E2BQuotaCheckCallback }) {}

  async getOrCreateContext(tenantId: string): Promise<string> {
    if (this.config.quotaCheckCallback) {
      const quotaResult = await this.config.quotaCheckCallback(tenantId, 0.03);
      if (!quotaResult.allowed) throw new Error(`E2B quota exceeded: ${quotaResult.reason}`);
    }
    return "a sandbox";
  }
}

const sandboxes = new ExecutionContextManager({ quotaCheckCallback: tollgate.checkE2BQuotaBeforeOperation });
const answer = await chat();
console.log(`chat ${answer.status} ${answer.headers.get("retry-after") ?? "-"} ${JSON.stringify(await answer.text())}`);
console.log(`sandbox ${await sandboxes.getOrCreateContext(tenantId).catch((error: Error) => error.message)}`);
