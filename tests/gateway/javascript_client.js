// Follows, publishes, asks and types with the client that is shipped, and prints a line for each thing it saw.
import { MillstreamClient } from "../../clients/millstream.js";

const { URL_OF_GATEWAY, DIRECT_URL, KEY, COUNT } = process.env;
const say = (line) => console.log(JSON.stringify(line));

const client = new MillstreamClient(URL_OF_GATEWAY, { token: () => KEY, backoffMs: 1, longestBackoffMs: 10 });
let seen = 0;
const everything = new Promise((resolve) => {
  const onEvent = (event) => {
    say({ event: event.id, partition: Number(Object.keys(event.positions)[0]) });
    if (++seen === Number(COUNT)) resolve();
  };
  const onGap = (gap) => say({ gap });
  const following = client.subscribe("results", { pipeline: "fraud", onGap }, onEvent);
  following.subscribed.then(() => say({ subscribed: following.label }));
});
await everything;
say({ reconnects: client.reconnects });
client.close();

const direct = new MillstreamClient(DIRECT_URL, { token: KEY });
const at = "2026-01-01T12:00:00Z";
const event = { id: "js-1", card_id: "c-1", occurred_at: at, amount_cents: 5 };
say({ published: (await direct.publish("payments", event)).id });
await direct.publish("payments", { card_id: 5 }).catch((error) => say({ refused: error.code, status: error.status }));
const pieces = [];
const prompt = { prompt: "Tell me.", max_tokens: 6, stream: true };
const answer = await direct.ask("generate", prompt, { onPiece: (piece) => pieces.push(piece.text) });
say({ answer: answer.text, pieces: pieces.join("") });
const type = async (text) => {
  let last = null;
  for await (const suggestion of direct.suggest(text, { maxTokens: 6 })) last = suggestion;
  return last;
};
const first = type("D");
const second = await type("De");
say({ superseded: !(await first)?.final, suggestion: second.partial, source: second.source });
const again = await type("De" + second.partial.slice(0, 2));
say({ suggestion: again.partial, source: again.source });
await direct
  .subscribe("results", { pipeline: "frod" }, () => {})
  .subscribed.catch((error) => say({ refused: error.code, status: error.status }));
const wrong = new MillstreamClient(DIRECT_URL, { token: "nonsense", onClose: (error) => say({ closed: error.code }) });
await wrong.publish("payments", event).catch((error) => say({ failed: error.code, retryable: error.retryable }));
direct.close();
