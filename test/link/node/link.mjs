// The link at level 1, in the sub-protocol berth.v1.json. It is written from docs/link-protocol.md and docs/bootstrap.md alone and shares no code with Berth:
// what it needs and does not find there is missing there.

import { randomBytes } from 'node:crypto'
import { EventEmitter } from 'node:events'
import { readFileSync } from 'node:fs'
import WebSocket from 'ws'

const KIB = 1024
const HALF_AN_HOUR = 1_800_000 // milliseconds
const FINAL_CODES = new Set([1002, 4002, 4003, 4004, 4005, 4006, 4007, 4008, 4012, 4013])
const AGAIN_CODES = new Set([4001, 4009, 4010, 4011])
const RETRIED_CODES = new Set([4, 10, 14]) // of gRPC
const FINAL_REASONS = new Set(['REVISION_MISMATCH', 'REQUEST_TOO_OLD'])
const RETRIED_REASONS = new Set(['RATE_LIMITED', 'CREDENTIALS_EXPIRED'])
const LINK_OVER = new Set(['SUPERSEDED', 'NOT_ASSIGNED', 'INSTANCE_UNKNOWN', 'INSTANCE_DELETED'])

export const say = (what, more = {}) => console.log(JSON.stringify({ at: new Date().toISOString(), what, ...more }))
const sleep = (ms) => new Promise((done) => setTimeout(done, ms))
const pause = (attempt) => Math.min(5000, 100 * 2 ** attempt) * (0.5 + Math.random() / 2)
const seconds = (duration) => Number.parseFloat(duration ?? '0') * 1000

// bootstrap finds the document, and exchanges its claim code if it has one.
export async function bootstrap() {
  const env = process.env
  const text = env.BERTH_BOOTSTRAP || (env.BERTH_BOOTSTRAP_FILE && readFileSync(env.BERTH_BOOTSTRAP_FILE, 'utf8')) ||
    (env.BERTH_BOOTSTRAP_FD && readFileSync(Number(env.BERTH_BOOTSTRAP_FD), 'utf8')) || readFileSync('.berth/bootstrap.json', 'utf8')
  const doc = JSON.parse(text)
  if (doc.v !== 1) throw new Error(`the bootstrap document has version ${doc.v}, and this reads version 1`)
  if (!doc.claim) return doc
  const body = JSON.stringify({ claim: doc.claim, nonce: randomBytes(32).toString('base64') })
  for (let attempt = 0; ; attempt++) {
    const answer = await fetch(`${doc.gateway}/v1/claim`, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body }).catch(() => null)
    if (answer?.ok) {
      const pair = await answer.json()
      return { ...doc, game: pair.gameToken, social: pair.socialToken }
    }
    if (answer && answer.status < 500 && ![408, 409, 429].includes(answer.status)) throw new Error(`the claim code was refused: ${await answer.text()}`)
    await sleep(pause(attempt) + 1000 * Number(answer?.headers.get('retry-after') ?? 0))
  }
}

// Link keeps one instance linked. It emits
//   snapshot(instance)  the instance as it is now: after the first link, and each time it has to be taken anew
//   event(event)        what a backend did, once each, in order
//   over(reason)        there is nothing left to do; nothing follows
export class Link extends EventEmitter {
  constructor(doc, { refreshAfter, snapshot } = {}) {
    super()
    Object.assign(this, { doc, game: doc.game, social: doc.social, refreshAfter, snapshot })
    this.nonce = randomBytes(16).toString('hex')
    this.requests = new Map() // without an answer, by number, in order of the numbers
    this.lastId = 0
    this.lastOffset = 0
    this.linkEpoch = 0
    this.linked = false
    this.attempt = 0
    this.opened = 0 // connections so far
    this.refreshed = 0
    this.isOver = false
  }

  // ---- the connection

  connect() {
    if (this.isOver) return
    const url = this.doc.gateway.replace(/^http/, 'ws') + '/v1/link'
    const headers = { Authorization: `Bearer ${this.game}`, 'Berth-Social-Token': this.social }
    const ws = new WebSocket(url, 'berth.v1.json', { headers, ca: this.doc.ca, perMessageDeflate: false, maxPayload: 12 * KIB * KIB, handshakeTimeout: 10000 })
    this.ws = ws
    this.ready = false
    this.goodbye = null
    this.retryAfter = 0
    this.heard = Date.now()
    ws.on('open', () => this.hello())
    ws.on('message', (data, binary) => { this.heard = Date.now(); if (!binary) this.frame(JSON.parse(data)) })
    ws.on('ping', () => { this.heard = Date.now() }) // the library answers it
    ws.on('unexpected-response', (_, res) => this.refused(ws, res))
    ws.on('error', (err) => say('connection', { error: err.message }))
    ws.on('close', (code) => this.closed(code))
  }

  // refused deals with an upgrade that was answered with something else.
  refused(ws, res) {
    say('refused', { status: res.statusCode })
    res.resume()
    this.retryAfter = 1000 * Number(res.headers['retry-after'] ?? 0)
    if ([400, 401, 403, 426].includes(res.statusCode)) this.end(`the upgrade was refused with ${res.statusCode}`)
    ws.terminate()
  }

  closed(code) {
    clearInterval(this.watchdog)
    this.ready = false
    for (const r of this.requests.values()) r.sent = false
    if (this.isOver) return
    say('closed', { code, goodbye: this.goodbye })
    const early = code === 4006 && !this.resumeKey && this.opened === 0 // the welcome may have been lost
    const final = FINAL_CODES.has(code) || (code >= 4000 && !AGAIN_CODES.has(code) && this.goodbye && !this.goodbye.reconnect)
    if (final && !early) return this.end(`closed with ${code}`)
    setTimeout(() => this.connect(), pause(this.attempt++) + this.retryAfter * (1 + Math.random() / 4))
  }

  end(reason) {
    if (this.isOver) return
    this.isOver = true
    clearTimeout(this.refreshTimer)
    clearTimeout(this.ackTimer)
    for (const r of this.requests.values()) r.reject(new Error(reason))
    this.requests.clear()
    this.emit('over', reason)
  }

  // leave ends the link in good order, after an answer that says that it is over.
  leave() {
    this.acknowledge()
    this.ws.close(1000)
    this.end('left')
  }

  // ---- frames

  send(kind, body) { this.ws.send(JSON.stringify({ [kind]: body })) }

  hello() {
    const hello = { sdk: 'node-level-1/1.0', nonce: this.nonce }
    if (this.resumeKey) hello.resumeKey = this.resumeKey
    if (this.linkEpoch && !this.snapshot) hello.instances = [{ instanceId: this.doc.instance, lastOffset: this.lastOffset, linkEpoch: this.linkEpoch }]
    this.send('hello', hello)
  }

  frame(frame) {
    if (frame.welcome) this.welcome(frame.welcome)
    else if (frame.response) this.response(frame.response)
    else if (frame.notification) this.notification(frame.notification)
    else if (frame.goodbye) this.goodbye = frame.goodbye
    // anything else is of a later version, or of level 2
  }

  welcome(w) {
    this.attempt = 0
    this.opened++
    this.resumeKey = w.resumeKey
    this.auth = { game: w.gameHandle, social: w.socialHandle }
    this.maxInFlight = w.limits.maxInFlight
    const silence = 2 * seconds(w.heartbeat) + 2000
    this.watchdog = setInterval(() => { if (Date.now() - this.heard > silence) this.ws.terminate() }, 1000)
    if (this.opened === 1) this.refreshIn(this.refreshAfter ?? this.halfLife())
    const resumed = (w.instances ?? []).find((i) => i.instanceId === this.doc.instance)
    if ((w.rolledBackInstanceIds ?? []).includes(this.doc.instance)) this.rolledBack()
    say('welcome', { connection: this.opened, resumed: Boolean(resumed) })
    this.ready = true
    this.linked = Boolean(resumed) && !this.mustLink
    if (this.linked) this.linkEpoch = resumed.linkEpoch
    else this.link()
    this.flush()
  }

  response(r) {
    const request = this.requests.get(r.id)
    if (!request) return // answered already, or about an ephemeral message
    if (r.error) return this.failed(request, r.error)
    this.requests.delete(r.id)
    request.resolve(r.result)
    this.flush()
  }

  failed(request, error) {
    say('error', { method: request.method, ...error })
    const retried = (RETRIED_CODES.has(error.code) && !FINAL_REASONS.has(error.reason)) || RETRIED_REASONS.has(error.reason)
    if (error.reason === 'STALE_LINK_EPOCH') {
      request.sent = false
      this.linked = false
      this.link()
    } else if (error.reason === 'STATE_ROLLED_BACK') { // to be linked again, over another connection
      this.rolledBack()
      this.ready = false
      this.ws.terminate()
    } else if (retried) {
      if (error.reason === 'CREDENTIALS_EXPIRED') this.refresh()
      request.sent = false
      request.resting = true
      setTimeout(() => { request.resting = false; this.flush() }, Math.max(100, seconds(error.retryAfter)))
    } else {
      this.requests.delete(request.id)
      request.reject(Object.assign(new Error(error.message), { reason: error.reason }))
      if (LINK_OVER.has(error.reason)) this.leave()
    }
    this.flush()
  }

  notification(n) {
    if (n.instanceId !== this.doc.instance) return
    if (n.event?.superseded) return this.leave()
    if (n.offset <= this.lastOffset) return // seen
    this.lastOffset = n.offset
    if (n.event?.resync) this.link()
    else this.emit('event', n.event ?? {}, n.offset)
    this.ackTimer ??= setTimeout(() => this.acknowledge(), 50)
  }

  acknowledge() {
    clearTimeout(this.ackTimer)
    this.ackTimer = undefined
    if (this.ready && this.lastOffset) this.send('ack', { instanceId: this.doc.instance, offset: this.lastOffset })
  }

  // ---- requests

  // call makes a request, which is sent again until it is answered.
  call(method, payload = {}) {
    return new Promise((resolve, reject) => {
      if (this.isOver) return reject(new Error('the link is over'))
      const request = { id: ++this.lastId, method, payload, resolve, reject, sent: false, resting: false }
      this.requests.set(request.id, request)
      this.flush()
    })
  }

  // flush sends what can be sent: first what links, then the rest in order of the numbers.
  flush() {
    if (!this.ready || this.isOver) return
    let inFlight = 0
    for (const r of this.requests.values()) if (r.sent) inFlight++
    for (const r of this.requests.values()) {
      const free = r.method === 'Link' || r.method === 'RefreshTokens' // they need no link
      if (r.sent || inFlight >= this.maxInFlight || r.resting || (!free && !this.linked)) continue
      r.sent = true
      inFlight++
      const about = r.method === 'RefreshTokens' ? {} : { instanceId: this.doc.instance, linkEpoch: r.method === 'Link' ? 0 : this.linkEpoch }
      this.send('request', { id: r.id, auth: this.auth, ...about, method: r.method, payload: r.payload })
    }
  }

  // link binds the server to its instance and takes the snapshot for the truth. One that is under way is not asked for twice.
  async link() {
    for (const r of this.requests.values()) if (r.method === 'Link') return
    try {
      const start = await this.call('Link', { serverVersion: 'node-level-1' })
      if (!start) return // given up
      this.linkEpoch = start.linkEpoch
      this.lastOffset = start.offset ?? 0
      this.mustLink = false
      this.linked = true
      this.emit('snapshot', start.instance)
      this.flush()
    } catch (err) {
      this.end(`the instance could not be linked: ${err.message}`)
    }
  }

  // rolledBack takes note that the store has lost writes: the instance is linked anew, even if welcome says that it goes on. A Link without an answer is
  // given up, for it must be a new one.
  rolledBack() {
    this.mustLink = true
    for (const r of this.requests.values()) {
      if (r.method !== 'Link') continue
      this.requests.delete(r.id)
      r.resolve(null)
    }
  }

  // ---- tokens

  // halfLife is when to refresh for the first time: half-way to the token's end, if it says when that is.
  halfLife() {
    try {
      const claims = JSON.parse(Buffer.from(this.game.split('.')[1], 'base64url'))
      return (1000 * (claims.exp - claims.iat)) / 2 || HALF_AN_HOUR
    } catch {
      return HALF_AN_HOUR
    }
  }

  refreshIn(ms) {
    this.refreshTimer = setTimeout(() => this.refresh(), Math.min(ms * (1 + Math.random() / 10), 2 ** 31 - 1))
  }

  // refresh has the tokens minted anew. One that is under way is not asked for twice.
  async refresh() {
    for (const r of this.requests.values()) if (r.method === 'RefreshTokens') return
    clearTimeout(this.refreshTimer)
    try {
      const pair = await this.call('RefreshTokens', { resumeKey: this.resumeKey, instanceId: this.doc.instance })
      this.game = pair.gameToken
      this.social = pair.socialToken
      this.refreshed++
      this.refreshIn(Math.max(1000, Date.parse(pair.refreshTime) - Date.now()))
    } catch (err) {
      if (!this.isOver) this.refreshIn(5000)
    }
  }
}
