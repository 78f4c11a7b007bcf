// OpenAI's client for node against a server given as the first argument: whole, streamed, helpers, errors.
import assert from "node:assert/strict";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 });
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
