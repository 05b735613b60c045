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

const logout = () =>
  fetch(`${URL_OF_GATEWAY}/api/v1/auth/logout`, { method: "POST", headers: { authorization: `Bearer ${access}` } });
let status = 401;
while (status === 401) {
  ({ status } = await logout()); // where the token has just expired the socket brings the next one
  await new Promise((resolve) => setTimeout(resolve, 20));
}
say({ logged_out: status });
say({ closed: (await over.promise).code });
