// Asks a vendor's own client against an app that passes a denial of the gate on, and says what the client raised.
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";

const [vendor, url] = process.argv.slice(2);
const messages = [{ role: "user", content: "hello" }];
try {
  if (vendor.startsWith("openai")) {
    const client = new OpenAI({ apiKey: "none", baseURL: url });
    const stream = vendor === "openai-stream";
    const answer = await client.chat.completions.create({ model: "m", messages, stream });
    if (stream) for await (const _ of answer);
  } else {
    await new Anthropic({ apiKey: "none", baseURL: url }).messages.create({ model: "m", max_tokens: 1, messages });
  }
  console.log("nothing raised");
} catch (error) {
  console.log(error.constructor.name, error.status, error.code ?? error.error?.error?.type);
}
