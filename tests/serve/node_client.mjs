// What OpenAI's client for Node finds at a server: node node_client.mjs URL KEY prints JSON.
import OpenAI from "openai";

const [url, key] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0 });
const messages = [{ role: "user", content: "Hello" }];
const asked = { model: "tiny", messages, max_tokens: 12, temperature: 0, seed: 1 };
const found = {};

found.models = (await client.models.list()).data.map((one) => one.id);

const whole = await client.chat.completions.create(asked);
found.whole = whole.choices[0].message.content;
found.usage = whole.usage.completion_tokens;

let text = "";
const stream = await client.chat.completions.create({ ...asked, stream: true, stream_options: { include_usage: true } });
for await (const chunk of stream) {
  text += chunk.choices[0]?.delta?.content ?? "";
  if (chunk.usage) found.streamedUsage = chunk.usage.completion_tokens;
}
found.streamed = text;
found.helper = await client.chat.completions.stream(asked).finalContent();

const weather = {
  type: "object",
  properties: { city: { enum: ["Ulm", "Bern"] }, days: { enum: [1, 2] } },
  required: ["city", "days"],
  additionalProperties: false,
};
const tools = [{ type: "function", function: { name: "weather", parameters: weather } }];
const called = await client.chat.completions.create({ ...asked, max_tokens: 300, tools, tool_choice: "required", parallel_tool_calls: false });
found.calls = called.choices[0].message.tool_calls.map((one) => [one.function.name, JSON.parse(one.function.arguments)]);
found.callsFinish = called.choices[0].finish_reason;

const format = { type: "json_schema", json_schema: { name: "w", schema: weather, strict: true } };
const parsed = await client.chat.completions.parse({ ...asked, max_tokens: 300, response_format: format });
found.parsed = parsed.choices[0].message.parsed;

const completion = { model: "tiny", prompt: "Hi", max_tokens: 8, temperature: 0 };
found.completion = (await client.completions.create(completion)).choices[0].text;
let pieces = "";
for await (const chunk of await client.completions.create({ ...completion, stream: true })) pieces += chunk.choices[0]?.text ?? "";
found.completionStreamed = pieces;

const input = { model: "tiny", input: "Hello", max_output_tokens: 8, temperature: 0 };
const response = await client.responses.create(input);
found.response = response.output_text;
let deltas = "";
for await (const event of await client.responses.create({ ...input, stream: true })) {
  if (event.type === "response.output_text.delta") deltas += event.delta;
  found.lastEvent = event.type;
}
found.responseStreamed = deltas;
found.retrieved = (await client.responses.retrieve(response.id)).output_text;
let behind = await client.responses.create({ ...input, background: true });
found.queued = behind.status;
while (["queued", "in_progress"].includes(behind.status)) {
  await new Promise((done) => setTimeout(done, 20));
  behind = await client.responses.retrieve(behind.id);
}
found.behind = behind.output_text;

const file = await client.files.create({ file: await OpenAI.toFile(Buffer.from("{}\n"), "b.jsonl"), purpose: "batch" });
found.file = [file.filename, (await client.files.delete(file.id)).deleted];

const errorOf = async (work) => {
  try {
    await work;
    return null;
  } catch (error) {
    return [error.constructor.name, error.status, error.param ?? null];
  }
};
found.badField = await errorOf(client.chat.completions.create({ ...asked, temperature: -1 }));
found.unknownModel = await errorOf(client.chat.completions.create({ ...asked, model: "none" }));
const stranger = new OpenAI({ baseURL: `${url}/v1`, apiKey: "not-a-key-here", maxRetries: 0 });
found.wrongKey = await errorOf(stranger.models.list());

const left = await client.chat.completions.create({ ...asked, max_tokens: 400, ignore_eos: true, stream: true });
for await (const _ of left) break; // hangs up
found.after = (await client.chat.completions.create(asked)).choices[0].message.content;

console.log(JSON.stringify(found));
