// Follows the results of a pipeline with the client that is shipped, and prints a line for each thing it saw.
import { MillstreamClient } from "../../../clients/millstream.js";

const { GATEWAY, KEY, PIPELINE, COUNT } = process.env;
const say = (line) => console.log(JSON.stringify(line));

const client = new MillstreamClient(GATEWAY, { token: KEY, backoffMs: 10, longestBackoffMs: 200 });
let seen = 0;
const onEvent = (event) => {
  say({ id: event.id, partition: Number(Object.keys(event.positions)[0]) });
  if (++seen === Number(COUNT)) {
    say({ reconnects: client.reconnects });
    client.close();
  }
};
const onError = (error) => say({ error: error.code });
const following = client.subscribe("results", { pipeline: PIPELINE, onGap: (gap) => say({ gap }), onError }, onEvent);
following.subscribed.then(() => say({ subscribed: following.label }));
