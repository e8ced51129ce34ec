// A client of MCP, asked for tasks: a program for node, in an environment with @modelcontextprotocol/sdk.
//
// Rule 1: it imports nothing of ours. The client is used as its documentation shows.
// Rule 2: a task is a line of JSON on standard input, its result a line on standard output. Each way has one session for
//     all of its tasks. Tasks and results are those of drive_mcp.py.
//
// Usage: node drive_mcp.mjs HOME URL COMMAND, where COMMAND is JSON: the command line of a server on standard input

import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const [home, url, command] = process.argv.slice(2);
const load = createRequire(`${home}/package.json`);
const { Client } = load("@modelcontextprotocol/sdk/client/index.js");
const { StdioClientTransport } = load("@modelcontextprotocol/sdk/client/stdio.js");
const { StreamableHTTPClientTransport } = load("@modelcontextprotocol/sdk/client/streamableHttp.js");
const { ElicitRequestSchema } = load("@modelcontextprotocol/sdk/types.js");
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const CALL_MILLISECONDS = 5000; // without progress; 60 s by default

async function connect(way) {
  const client = new Client({ name: "test", version: "1" }, { capabilities: { elicitation: {} } });
  // The user of the client: says yes to whatever is asked.
  client.setRequestHandler(ElicitRequestSchema, async ({ params }) => ({
    action: "accept",
    content: { answer: `${params.message} yes` },
  }));
  const [program, ...args] = JSON.parse(command);
  const transport = way.startsWith("stdio")
    ? new StdioClientTransport({ command: program, args, stderr: "ignore" })
    : new StreamableHTTPClientTransport(new URL(url));
  await client.connect(transport);
  return client;
}

// Call a tool; the result has the texts of the progress.
async function call(client, name, args, options) {
  const progress = [];
  const onprogress = ({ message }) => progress.push(message);
  try {
    const asked = { onprogress, resetTimeoutOnProgress: true, ...options };
    const result = await client.callTool({ name, arguments: args }, undefined, asked);
    return { isError: false, ...result, text: result.content[0].text, progress };
  } catch (error) {
    return { raised: error.constructor.name, text: String(error.message) };
  }
}

const tasks = {
  call: (client, tool, args) => call(client, tool, args, { timeout: CALL_MILLISECONDS }),

  // Call a tool many times at once; the queries whose answers are not their own.
  async storm(client, tool, queries) {
    const results = await Promise.all(queries.map((query) => call(client, tool, { query })));
    const pairs = queries.map((query, number) => [query, results[number].text]);
    return { wrong: pairs.filter(([query, text]) => query.slice(query.indexOf(" ") + 1) !== text), count: results.length };
  },

  // Call a tool, and cancel the call after the next line on standard input.
  async leave(client, tool, args) {
    const abort = new AbortController();
    const running = call(client, tool, args, { signal: abort.signal });
    await lines.next();
    abort.abort();
    const time = Date.now() / 1000;
    await running;
    return { time };
  },

  async tools(client) {
    return { tools: (await client.listTools()).tools.map(({ name }) => name) };
  },
};

const clients = new Map();
for await (const line of { [Symbol.asyncIterator]: () => lines }) {
  const { way, task, tool, arguments: args } = JSON.parse(line);
  if (!clients.has(way)) clients.set(way, await connect(way));
  process.stdout.write(`${JSON.stringify(await tasks[task](clients.get(way), tool, args))}\n`);
}
for (const client of clients.values()) await client.close();
