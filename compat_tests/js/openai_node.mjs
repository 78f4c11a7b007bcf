// OpenAI's client for node against a server given as the first argument: whole, streamed, helpers, errors; what
// the server can do beyond text is named after it.
import assert from "node:assert/strict";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const [baseURL, ...abilities] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const asked = {
  model: "dendrite",
  messages: [{ role: "user", content: "Hello" }],
  temperature: 0,
  max_completion_tokens: 30,
};

const { data: whole, request_id } = await client.chat.completions.create(asked).withResponse();
const text = whole.choices[0].message.content;
assert.ok(text);
assert.ok(request_id);
assert.equal(whole.usage.total_tokens, whole.usage.prompt_tokens + whole.usage.completion_tokens);

let streamed = "";
for await (const chunk of await client.chat.completions.create({ ...asked, stream: true })) {
  streamed += chunk.choices[0]?.delta.content ?? "";
}
assert.equal(streamed, text);

const helper = client.chat.completions.stream({ ...asked, stream_options: { include_usage: true } });
assert.equal(await helper.finalContent(), text);
assert.equal((await helper.totalUsage()).total_tokens, whole.usage.total_tokens);

// Fields that the client does not know travel with the others.
const forked = await client.chat.completions.create({ ...asked, messages: [], parent_id: whole.id, n_branches: 2 });
assert.equal(forked.choices.length, 2);
assert.ok(forked.usage.prompt_tokens_details.cached_tokens > 0);
assert.equal(forked.tree.parent_id, whole.choices[0].branch_id);

const first = await client.responses.create({ model: "dendrite", input: "Hello", max_output_tokens: 20 });
const events = [];
const second = client.responses.stream({
  model: "dendrite",
  input: "And you?",
  previous_response_id: first.id,
  max_output_tokens: 20,
});
for await (const event of second) events.push(event.type);
assert.equal(events[0], "response.created");
assert.ok((await second.finalResponse()).usage.input_tokens_details.cached_tokens > 0);

if (abilities.includes("formats")) {
  const Verdict = z.object({ verdict: z.enum(["good", "bad"]), points: z.number().int().min(0).max(9) });
  const wanted = { ...asked, max_completion_tokens: 60, response_format: zodResponseFormat(Verdict, "verdict") };
  const parsed = await client.chat.completions.parse(wanted);
  assert.ok(Verdict.safeParse(parsed.choices[0].message.parsed).success);
  const streamed = await client.chat.completions.stream(wanted).finalChatCompletion();
  assert.deepEqual(streamed.choices[0].message.parsed, parsed.choices[0].message.parsed);
}

if (abilities.includes("tools")) {
  // The model asks, the tool answers, the model says so: once whole, once streamed.
  const expressions = [];
  const calculator = {
    type: "function",
    function: {
      name: "calculator",
      description: "Evaluate an arithmetic expression.",
      parameters: {
        type: "object",
        properties: { expression: { type: "string", description: "The expression, e.g. 2 + 3 * 4" } },
        required: ["expression"],
        additionalProperties: false,
      },
      parse: JSON.parse,
      function: ({ expression }) => {
        expressions.push(expression);
        return "7006652";
      },
    },
  };
  for (const stream of [false, true]) {
    const runner = client.chat.completions.runTools({
      ...asked,
      stream,
      max_completion_tokens: 100,
      messages: [{ role: "user", content: "What is 1234 * 5678?" }],
      tools: [calculator],
    });
    assert.match(await runner.finalContent(), /7006652/);
  }
  assert.deepEqual(expressions, ["1234 * 5678", "1234 * 5678"]);
}

await assert.rejects(client.chat.completions.create({ ...asked, temperature: 9 }), (error) => {
  assert.ok(error instanceof OpenAI.BadRequestError);
  assert.equal(error.param, "temperature");
  assert.equal(error.code, "invalid_value");
  assert.ok(error.requestID);
  return true;
});
await assert.rejects(client.models.retrieve("nothing"), OpenAI.NotFoundError);

// A client that goes away in the middle takes its request with it.
const left = await client.chat.completions.create({ ...asked, max_completion_tokens: 2000, stream: true });
for await (const chunk of left) {
  assert.ok(chunk.id);
  break;
}
console.log("all is well");
