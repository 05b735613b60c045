// A user's session over sockets: it is opened again with the next token, until the session is over.
import { MillstreamClient } from "../../../clients/millstream.js";

const { URL_OF_GATEWAY, ACCESS, REFRESH } = process.env;
const say = (line) => console.log(JSON.stringify(line));
let access = ACCESS;
let refreshes = 0;
let subscribed = 0;

const over = {};
over.promise = new Promise((resolve) => (over.resolve = resolve));

const client = new MillstreamClient(URL_OF_GATEWAY, {
  token: ACCESS,
  refreshToken: REFRESH,
  backoffMs: 1,
  longestBackoffMs: 10,
  onTokens: (tokens) => {
    access = tokens.accessToken;
    if (++refreshes === 1) say({ refreshed: true });
  },
  onClose: (error) => over.resolve(error),
});
const follow = () => {
  const following = client.subscribe("results", { pipeline: "fraud" }, () => {});
  return following.subscribed.then(() => (say({ subscribed: ++subscribed }), following));
};
const first = await follow();
while (refreshes === 0) await new Promise((resolve) => setTimeout(resolve, 20));
first.close();
await follow();

const answer = await fetch(`${URL_OF_GATEWAY}/api/v1/auth/logout`, {
  method: "POST",
  headers: { authorization: `Bearer ${access}` },
});
say({ logged_out: answer.status });
say({ closed: (await over.promise).code });
