// Clients of AG-UI, asked for tasks: a program for node, in an environment with @ag-ui/client.
//
// Rule 1: a client is used as its documentation shows: it verifies the types and the order of events itself.
// Rule 2: a task is a line of JSON on standard input, its result a line on standard output.
//
// Usage: node drive_agui.mjs HOME URL

import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const [home, url] = process.argv.slice(2);
const { HttpAgent } = createRequire(`${home}/package.json`)("@ag-ui/client");
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

// One run of an agent: its texts, its end, and facts of its events.
async function run(agent, query, parameters = {}) {
  if (query !== null) agent.addMessage({ id: crypto.randomUUID(), role: "user", content: query });
  const seen = { events: [], agents: [], tools: [], results: [], suspended: 0 };
  const before = agent.messages.length;
  const subscriber = {
    onEvent({ event }) {
      seen.events.push(event.type);
      if (event.type === "SUBAGENT_STARTED") seen.agents.push(event.name);
      if (event.type === "SUBAGENT_FINISHED" && event.outcome?.type === "suspended") seen.suspended += 1;
      if (event.type === "TOOL_CALL_START") seen.tools.push(event.toolCallName);
      if (event.type === "TOOL_CALL_RESULT") seen.results.push(event.content);
      if (event.type === "RUN_FINISHED") Object.assign(seen, { outcome: event.outcome?.type, result: event.result });
      if (event.type === "RUN_ERROR") {
        Object.assign(seen, { code: event.code, message: event.message, ...event.metadata?.oxygent });
      };
    },
  };
  try {
    await agent.runAgent(parameters, subscriber);
  } catch (error) {
    seen.error = String(error.message ?? error);
  }
  const texts = agent.messages.slice(before).filter((each) => each.role === "assistant" && each.content);
  return { ...seen, texts: texts.map((each) => each.content), trace: agent.state?.oxygent };
}

const ways = {
  // Each query is a turn of one thread; all have the same id of a run if there is one.
  async turns({ queries, runId }) {
    const agent = new HttpAgent({ url });
    const results = [];
    for (const query of queries) results.push(await run(agent, query, { runId }));
    return { results };
  },

  // A turn of a client that does not know the thread of the messages before it.
  async history({ messages, query }) {
    const agent = new HttpAgent({ url, initialMessages: messages });
    return run(agent, query);
  },

  // The same run three times: at once by two clients, and once more after its end.
  async again({ query }) {
    const [threadId, runId] = [crypto.randomUUID(), crypto.randomUUID()];
    const once = () => run(new HttpAgent({ url, threadId }), query, { runId });
    const results = await Promise.all([once(), once()]);
    return { results: [...results, await once()] };
  },

  // The agent asks: the answers, one after the other.
  async answers({ query, answers }) {
    const agent = new HttpAgent({ url });
    const results = [await run(agent, query)];
    for (const payload of answers) {
      const resume = agent.pendingInterrupts.map(({ id }) => ({ interruptId: id, status: "resolved", payload }));
      results.push(await run(agent, null, { resume }));
    }
    return { results };
  },

  // The next line on standard input says when to leave.
  async leave({ query }) {
    const agent = new HttpAgent({ url });
    const running = run(agent, query);
    await lines.next();
    agent.abortRun();
    const time = Date.now() / 1000;
    return { time, ...(await running) };
  },

  // Many at once: the answers that are not their own.
  async storm({ count }) {
    const texts = await Promise.all(
      Array.from({ length: count }, async (_, number) => {
        const { texts, error } = await run(new HttpAgent({ url }), `echo storm ${number}.`);
        return texts.join("|") === `storm ${number}.` ? "" : `${number}: ${texts} ${error}`;
      }),
    );
    return { wrong: texts.filter((each) => each), count: texts.length };
  },
};

for await (const line of { [Symbol.asyncIterator]: () => lines }) {
  const { way, ...task } = JSON.parse(line);
  let result;
  try {
    result = await ways[way](task);
  } catch (error) {
    result = { raised: String(error) };
  }
  process.stdout.write(`${JSON.stringify(result)}\n`);
}
