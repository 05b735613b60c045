/**
 * The JavaScript client: follow channels, publish and ask over one WebSocket, and come back where one left off.
 *
 *     import { MillstreamClient } from "./millstream.js";
 *
 *     const client = new MillstreamClient("https://gateway.example", { token: "ms_..." });
 *     client.subscribe("results", { pipeline: "fraud" }, (event) => console.log(event.id, event.data.status));
 *     await client.publish("fraud", { card_id: "1", amount_cents: 100 });
 *     for await (const suggestion of client.suggest("Dear si")) show(suggestion.partial);
 *
 * A user's session goes on by itself: given `refreshToken`, an access token that has expired is refreshed once and
 * the socket opened again; `onTokens` gets the next pair, for each refresh token counts once.
 *
 * One file, nothing else needed; for browsers and Node 22 or later. It reconnects by itself with the positions
 * that it has seen: a gateway that dies, drains or closes a slow client costs time and no events. What cannot
 * be had any more is told to `onGap`. Calls that are under way when the socket closes fail with an error that is
 * `retryable`; nothing is sent again behind the caller's back.
 */

export const SUBPROTOCOL = "millstream.v1.json";

/** Close codes after which trying again would not help. */
const FATAL = new Set([4400, 4401, 4403, 4406, 4409]);
const SILENT_MS = 90_000;
const UNAUTHENTICATED = 4401;

/** What a gateway refused: `code`, `status` and `retryable` are those of the problem document. */
export class MillstreamError extends Error {
  constructor(message, { code = "unknown", status = 0, retryable = false, problem = null } = {}) {
    super(message);
    this.name = "MillstreamError";
    Object.assign(this, { code, status, retryable, problem });
  }

  static of(problem) {
    const { detail, code, status, retryable } = problem;
    return new MillstreamError(detail ?? code, { code, status, retryable, problem });
  }
}

/** One subscription. `positions` can be stored, and given back as `since`. */
export class Subscription {
  #client;

  constructor(client, label, frame, onEvent, options) {
    this.#client = client;
    this.label = label;
    this.frame = frame;
    this.onEvent = onEvent;
    this.onGap = options.onGap ?? (() => {});
    this.onDropped = options.onDropped ?? (() => {});
    this.onError = options.onError ?? (() => {});
    this.positions = { ...(options.since ?? {}) };
    this.unacknowledged = {};
    this.live = false;
    /** Resolves once it is subscribed for the first time; rejects where it is refused. */
    this.subscribed = new Promise((resolve, reject) => Object.assign(this, { resolve, reject }));
    this.subscribed.catch(() => {}); // told to onError too
  }

  close() {
    this.#client.unsubscribe(this);
  }
}

export class MillstreamClient {
  #url;
  #http;
  #token;
  #refreshToken;
  #refreshing = false;
  #WebSocket;
  #socket = null;
  #ready = false;
  #closed = null;
  #attempt = 0;
  #timer = null;
  #watch = null;
  #heard = 0;
  #numbers = 0;
  #subscriptions = new Map();
  #calls = new Map();
  #waiting = [];
  #prompt = null;

  /**
   * @param {string} url of the gateway, http or https
   * @param {{token: string | (() => string | Promise<string>), refreshToken?: string,
   *   onTokens?: (tokens: {accessToken: string, refreshToken: string}) => void, WebSocket?: Function,
   *   fetch?: Function, onClose?: Function, backoffMs?: number, longestBackoffMs?: number}} options `token` may be
   *   a function, asked at each connect
   */
  constructor(url, { token, refreshToken, onTokens = () => {}, WebSocket = globalThis.WebSocket,
    fetch = globalThis.fetch, onClose = () => {}, backoffMs = 100, longestBackoffMs = 2_000 } = {}) {
    if (typeof WebSocket !== "function") {
      throw new MillstreamError("no WebSocket here; run in a browser or Node 22, or give one");
    }
    this.#http = url.replace(/\/+$/, "");
    this.#url = this.#http.replace(/^http/, "ws") + "/api/v1/stream";
    this.#token = token;
    this.#refreshToken = refreshToken;
    this.onTokens = onTokens;
    this.fetch = (...given) => fetch(...given);
    this.#WebSocket = WebSocket;
    this.onClose = onClose;
    this.backoffMs = backoffMs;
    this.longestBackoffMs = longestBackoffMs;
    this.reconnects = 0;
    this.#connect();
  }

  /**
   * Follow a channel: `results` and `entity` of a pipeline, `alerts`, `jobs` or `chat`.
   *
   * @param {string} channel
   * @param {{pipeline?: string, entity?: string, filter?: object, name?: string,
   *   policy?: "disconnect" | "drop_oldest" | "coalesce_by_key", since?: object, onGap?: Function,
   *   onDropped?: Function, onError?: Function}} options `since`: positions of an earlier subscription
   * @param {(event: {id: string, channel: string, positions: object, pushed_at: string, data: object}) => void}
   *   onEvent
   * @returns {Subscription}
   */
  subscribe(channel, options, onEvent) {
    const { pipeline, entity, filter, name, policy } = options;
    const label = [channel, pipeline, entity].filter((part) => part !== undefined).join(":");
    if (this.#subscriptions.has(label)) {
      throw new MillstreamError(`subscribed to ${label} already`, { code: "subscribed_already", status: 409 });
    }
    const frame = clean({ type: "subscribe", channel, pipeline, entity, filter, name, policy });
    const subscription = new Subscription(this, label, frame, onEvent, options);
    this.#subscriptions.set(label, subscription);
    if (this.#ready) this.#follow(subscription);
    return subscription;
  }

  unsubscribe(subscription) {
    if (this.#subscriptions.get(subscription.label) !== subscription) return;
    this.#acknowledge(subscription);
    this.#subscriptions.delete(subscription.label);
    const { channel, pipeline, entity } = subscription.frame;
    if (this.#ready) this.#say(clean({ type: "unsubscribe", channel, pipeline, entity }));
  }

  /** Publish one event, or a list of them; the body of the answer. */
  async publish(pipeline, data) {
    for await (const reply of this.#call({ type: "publish", pipeline, data })) return reply.data;
  }

  /**
   * Ask a pipeline; the body of the answer.
   *
   * @param {string} pipeline
   * @param {object} data
   * @param {{key?: string, waitS?: number, conversation?: string, onPiece?: (piece: object | null) => void}}
   *   options each piece of a streamed answer goes to `onPiece`, and null where it begins anew
   */
  async ask(pipeline, data, { key, waitS, conversation, onPiece = () => {} } = {}) {
    const frame = clean({ type: "ask", pipeline, data, key, wait_s: waitS, conversation });
    for await (const reply of this.#call(frame)) {
      if (reply.type === "answer") return reply.data;
      onPiece(reply.restart ? null : reply.data);
    }
  }

  /**
   * How a text goes on: ever more of it, up to the one that is `final`. The next prompt supersedes this one,
   * which then ends without.
   */
  async *suggest(prompt, { maxTokens, model } = {}) {
    this.#calls.get(this.#prompt)?.end();
    const frame = clean({ type: "prompt", prompt, max_tokens: maxTokens, model });
    for await (const reply of this.#call(frame)) {
      yield { source: reply.source, partial: reply.partial, final: reply.final };
      if (reply.final) return;
    }
  }

  /** End everything; calls that are under way fail. */
  close() {
    this.#end(new MillstreamError("the client was closed", { code: "closed" }));
    this.#socket?.close(1000);
  }

  async #connect() {
    let token;
    let socket;
    try {
      token = typeof this.#token === "function" ? await this.#token() : this.#token;
      if (this.#closed) return;
      socket = new this.#WebSocket(this.#url, SUBPROTOCOL);
    } catch (error) {
      this.#end(error);
      return;
    }
    this.#socket = socket;
    this.#heard = Date.now();
    let over = false;
    const ended = (code, reason) => {
      if (over || this.#socket !== socket) return;
      over = true;
      this.#lost(code, reason);
    };
    socket.onopen = () => socket.send(JSON.stringify(clean({ type: "connect", token, batched: true })));
    socket.onmessage = ({ data }) => {
      this.#heard = Date.now();
      for (const frame of [JSON.parse(data)].flat()) this.#take(frame);
    };
    socket.onerror = () => ended(1006, "the connection failed");
    socket.onclose = ({ code, reason }) => ended(code, reason);
    clearInterval(this.#watch);
    this.#watch = setInterval(() => {
      if (Date.now() - this.#heard > SILENT_MS) {
        socket.close();
        ended(1006, "nothing was heard of the gateway");
      }
    }, SILENT_MS / 6);
    this.#watch.unref?.();
  }

  #lost(code, reason) {
    this.#ready = false;
    clearInterval(this.#watch);
    const error = new MillstreamError(reason || `closed with ${code}`, {
      code: `closed_${code}`,
      retryable: !FATAL.has(code),
    });
    if (!this.#closed && code === UNAUTHENTICATED && this.#refreshToken !== undefined && !this.#refreshing) {
      this.#renew(error);
      return;
    }
    if (this.#closed || FATAL.has(code)) {
      this.#end(error);
      return;
    }
    this.#again(error);
  }

  /** Once between two connections that were good: a session that is over is not asked for again and again. */
  async #renew(error) {
    this.#refreshing = true;
    let tokens;
    try {
      const answer = await this.fetch(`${this.#http}/api/v1/auth/refresh`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ refresh_token: this.#refreshToken }),
      });
      tokens = await answer.json();
      if (!answer.ok) {
        const refused = MillstreamError.of(tokens);
        if (!refused.retryable) {
          this.#end(refused);
          return;
        }
      } else {
        this.#token = tokens.access_token;
        this.#refreshToken = tokens.refresh_token;
        this.onTokens({ accessToken: tokens.access_token, refreshToken: tokens.refresh_token });
      }
    } catch {
      tokens = {}; // away: where it was refreshed all the same the session is over, and the next attempt says so
    }
    if (!tokens.access_token) this.#refreshing = false; // tried again after the pause
    this.#again(error);
  }

  #again(error) {
    if (this.#closed) return;
    for (const call of [...this.#calls.values()]) if (call.sent) call.fail(error);
    this.reconnects += 1;
    const longest = Math.min(this.longestBackoffMs, this.backoffMs * 2 ** this.#attempt++);
    this.#timer = setTimeout(() => this.#connect(), longest * (0.5 + Math.random() / 2));
  }

  #end(error) {
    if (this.#closed) return;
    this.#closed = error;
    this.#ready = false;
    clearTimeout(this.#timer);
    clearInterval(this.#watch);
    for (const call of [...this.#calls.values()]) call.fail(error);
    for (const subscription of this.#subscriptions.values()) {
      subscription.reject(error);
      if (error.code !== "closed") subscription.onError(error);
    }
    this.onClose(error);
  }

  #take(frame) {
    const subscription = this.#subscriptions.get(frame.channel);
    switch (frame.type) {
      case "connected":
        this.#ready = true;
        this.#refreshing = false;
        this.#attempt = 0;
        for (const one of this.#subscriptions.values()) this.#follow(one);
        for (const send of this.#waiting.splice(0)) send();
        break;
      case "subscribed":
        if (!subscription) break;
        subscription.live = true;
        Object.assign(subscription.positions, frame.positions);
        for (const gap of frame.gaps) subscription.onGap(gap);
        subscription.resolve(subscription);
        break;
      case "event":
        if (!subscription) break;
        try {
          subscription.onEvent(frame);
        } catch (error) {
          queueMicrotask(() => { throw error; }); // the caller's own; the frames after it are taken all the same
        }
        Object.assign(subscription.positions, frame.positions);
        if (subscription.frame.name !== undefined) this.#later(subscription, frame.positions);
        break;
      case "dropped":
        subscription?.onDropped(frame.count);
        break;
      case "published":
      case "piece":
      case "answer":
      case "suggestion":
        this.#calls.get(frame.for)?.take(frame);
        break;
      case "error": {
        const error = MillstreamError.of(frame.problem);
        if (frame.for !== undefined) this.#calls.get(frame.for)?.fail(error);
        else if (subscription?.live && error.retryable) this.#later(subscription, subscription.positions); // an ack
        else if (subscription?.live) subscription.onError(error);
        else if (subscription) this.#refused(subscription, error);
        break; // one of neither comes before a close, which says the same
      }
      case "ping":
        this.#say(clean({ type: "pong", id: frame.id }));
        break;
    }
  }

  #follow(subscription) {
    subscription.live = false;
    const since = Object.values(subscription.positions);
    this.#say(since.length ? { ...subscription.frame, since } : subscription.frame);
  }

  #refused(subscription, error) {
    if (error.retryable) {
      setTimeout(() => {
        const there = this.#subscriptions.get(subscription.label) === subscription;
        if (this.#ready && there) this.#follow(subscription);
      }, this.longestBackoffMs);
      return;
    }
    this.#subscriptions.delete(subscription.label);
    subscription.reject(error);
    subscription.onError(error);
  }

  /** Acknowledge what was dealt with, once a second. */
  #later(subscription, positions) {
    const due = Object.keys(subscription.unacknowledged).length === 0;
    Object.assign(subscription.unacknowledged, positions);
    if (due) setTimeout(() => this.#acknowledge(subscription), 1_000).unref?.();
  }

  #acknowledge(subscription) {
    const positions = Object.values(subscription.unacknowledged);
    subscription.unacknowledged = {};
    if (!this.#ready) return;
    for (const position of positions) this.#say({ type: "ack", name: subscription.frame.name, position });
  }

  async *#call(frame) {
    if (this.#closed) throw this.#closed;
    const id = String(this.#numbers++);
    const replies = [];
    let wake = () => {};
    let over = false;
    const call = {
      sent: false,
      take: (reply) => (replies.push(reply), wake()),
      fail: (error) => ((over = true), replies.push(error), wake()),
      end: () => ((over = true), replies.push(null), wake()),
    };
    this.#calls.set(id, call);
    if (frame.type === "prompt") this.#prompt = id;
    const send = () => {
      if (this.#calls.get(id) !== call || over) return;
      call.sent = true;
      this.#say({ ...frame, id });
    };
    if (this.#ready) send();
    else this.#waiting.push(send);
    try {
      for (;;) {
        while (replies.length === 0) await new Promise((resolve) => (wake = resolve));
        const reply = replies.shift();
        if (reply === null) return;
        if (reply instanceof Error) throw reply;
        over = reply.type === "published" || reply.type === "answer" || reply.final === true;
        yield reply;
      }
    } finally {
      this.#calls.delete(id);
      if (!over && call.sent && this.#ready) this.#say({ type: "cancel", id });
    }
  }

  #say(frame) {
    if (this.#socket?.readyState === 1) this.#socket.send(JSON.stringify(frame));
  }
}

function clean(frame) {
  return Object.fromEntries(Object.entries(frame).filter(([, value]) => value !== undefined && value !== null));
}
