// Vercel's AI SDK against a server given as the first argument, through both of its providers; what the
// server can do beyond text is named after it.
import assert from "node:assert/strict";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const [baseURL, ...abilities] = process.argv.slice(2);
const openai = createOpenAI({ baseURL, apiKey: "none" });
const compatible = createOpenAICompatible({
  name: "dendrite",
  baseURL,
  apiKey: "none",
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const models = [
  openai.chat("dendrite"),
  openai.completion("dendrite"),
  openai.responses("dendrite"),
  compatible("dendrite"),
  compatible.completionModel("dendrite"),
];

for (const model of models) {
  const asked = { model, prompt: "Hello", temperature: 0, maxOutputTokens: 30, maxRetries: 0 };
  const whole = await generateText(asked);
  assert.ok(whole.text, model.provider);
  assert.equal(whole.usage.totalTokens, whole.usage.inputTokens + whole.usage.outputTokens);

  const stream = streamText(asked);
  let text = "";
  for await (const piece of stream.textStream) text += piece;
  assert.equal(text, whole.text, model.provider);
  assert.equal(await stream.finishReason, whole.finishReason);
  assert.equal((await stream.usage).outputTokens, whole.usage.outputTokens);
}

if (abilities.includes("formats")) {
  const schema = z.object({ verdict: z.enum(["good", "bad"]), points: z.number().int().min(0).max(9) });
  for (const model of [openai.chat("dendrite"), openai.responses("dendrite"), compatible("dendrite")]) {
    const { output } = await generateText({
      model,
      output: Output.object({ schema }),
      prompt: "Judge for 24: 4 6 13",
      maxOutputTokens: 60,
    });
    assert.ok(schema.safeParse(output).success, model.provider);
  }
}

if (abilities.includes("tools")) {
  // The model asks, the tool answers, the model says so: once whole, once streamed.
  const expressions = [];
  const calculator = tool({
    description: "Evaluate an arithmetic expression.",
    inputSchema: z.object({ expression: z.string().describe("The expression, e.g. 2 + 3 * 4") }),
    execute: async ({ expression }) => {
      expressions.push(expression);
      return "7006652";
    },
  });
  for (const model of [openai.chat("dendrite"), openai.responses("dendrite"), compatible("dendrite")]) {
    const asked = {
      model,
      tools: { calculator },
      stopWhen: stepCountIs(3),
      prompt: "What is 1234 * 5678?",
      temperature: 0,
      maxOutputTokens: 100,
      maxRetries: 0,
    };
    assert.match((await generateText(asked)).text, /7006652/, model.provider);
    assert.match(await streamText(asked).text, /7006652/, model.provider);
  }
  assert.deepEqual(expressions, Array(6).fill("1234 * 5678"));
}

await assert.rejects(
  generateText({ model: compatible("nothing"), prompt: "Hello", maxRetries: 0 }),
  (error) => error.statusCode === 404 && /nothing/.test(error.message),
);
console.log("all is well");
